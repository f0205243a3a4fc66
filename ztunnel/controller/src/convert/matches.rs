//! Values of policies as matches of the wire. What cannot be read is an error: what it would have meant is unknown.

use std::net::IpAddr;

use ipnet::IpNet;
use proto::security::{Address, Presence, ServiceAccountMatch, StringMatch, string_match::MatchType};

use super::octets;

/// `*` is whatever is there, `x*` and `*x` are beginnings and ends.
pub(super) fn strings(values: &[String]) -> Vec<StringMatch> {
    values.iter().map(|value| string(value)).collect()
}

fn string(value: &str) -> StringMatch {
    let match_type = match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(""), _) => MatchType::Presence(Presence {}),
        (_, Some(prefix)) => MatchType::Prefix(prefix.to_owned()),
        (Some(suffix), _) => MatchType::Suffix(suffix.to_owned()),
        (None, None) => MatchType::Exact(value.to_owned()),
    };
    StringMatch { match_type: Some(match_type) }
}

pub(super) fn presence() -> StringMatch {
    StringMatch { match_type: Some(MatchType::Presence(Presence {})) }
}

/// Addresses and blocks.
pub(super) fn addresses(values: &[String]) -> Result<Vec<Address>, String> {
    let address = |value: &String| {
        let block = value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
        let block = block.map_err(|_| format!("`{value}` is neither an address nor a CIDR block"))?;
        Ok(Address { address: octets(block.network()), length: block.prefix_len().into() })
    };
    values.iter().map(address).collect()
}

pub(super) fn ports(values: &[String]) -> Result<Vec<u32>, String> {
    let port = |value: &String| match value.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port.into()),
        _ => Err(format!("`{value}` is not a port from 1 to 65535")),
    };
    values.iter().map(port).collect()
}

/// `namespace/name`, or `name` in the namespace of the policy.
pub(super) fn service_accounts(values: &[String], own: &str) -> Result<Vec<ServiceAccountMatch>, String> {
    let account = |value: &String| {
        let (namespace, name) = value.split_once('/').unwrap_or((own, value));
        if namespace.is_empty() || name.is_empty() || value.contains('*') || name.contains('/') {
            return Err(format!("`{value}` is not the name of a service account"));
        }
        Ok(ServiceAccountMatch { namespace: namespace.to_owned(), service_account: name.to_owned() })
    };
    values.iter().map(account).collect()
}
