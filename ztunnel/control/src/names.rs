//! Host names of workloads, looked up by DNS as the machine is configured to, and remembered.
//!
//! Answers, also those that say there is nothing, are remembered for as long as they say, within limits of ours. However
//! many connections ask for one name at once, it is looked up once; and only so many names at a time.

use std::{collections::HashMap, fs, net::IpAddr, path::Path, str::FromStr, sync::Arc, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::Name,
    system_conf::parse_resolv_conf,
};
use model::names::{Addresses, HostNames, NameError};
use parking_lot::Mutex;
use tokio::{sync::SetOnce, time::timeout};

#[cfg(test)]
mod tests;

#[derive(Clone, Debug)]
pub struct NameSettings {
    /// For one name, whatever is asked of whomever.
    pub deadline: Duration,
    /// Names that are remembered.
    pub remembered: u64,
    /// Names that are looked up at the same time.
    pub at_once: usize,
    /// Addresses of one name; more are ignored.
    pub addresses: usize,
    /// How long an answer is remembered at least and at most, whatever it says; and one that says there is nothing.
    pub positive: (Duration, Duration),
    pub negative: (Duration, Duration),
}

impl Default for NameSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            deadline: seconds(5),
            remembered: 4096,
            at_once: 256,
            addresses: 64,
            positive: (seconds(1), seconds(600)),
            negative: (seconds(1), seconds(30)),
        }
    }
}

/// Clones share what is remembered.
#[derive(Clone)]
pub struct Names(Arc<Inner>);

struct Inner {
    settings: NameSettings,
    /// Or why nobody can be asked.
    resolver: Result<TokioResolver, Arc<str>>,
    under_way: Mutex<HashMap<Arc<str>, Arc<LookUp>>>,
}

type LookUp = SetOnce<Result<Arc<[IpAddr]>, NameError>>;

impl Names {
    /// Asks the servers that `resolv_conf` names, in the form of resolv.conf(5). Without it every look-up fails and says
    /// so: most meshes have no workload that needs one.
    pub fn open(resolv_conf: &Path, settings: NameSettings) -> Self {
        let parsed = fs::read(resolv_conf).map_err(NetError::from).and_then(parse_resolv_conf);
        let resolver = parsed.and_then(|(config, options)| resolver(config, options, &settings));
        let resolver = resolver.map_err(|error| format!("{}: {error}", resolv_conf.display()).into());
        Self::new(resolver, settings)
    }

    fn new(resolver: Result<TokioResolver, Arc<str>>, settings: NameSettings) -> Self {
        Self(Arc::new(Inner { settings, resolver, under_way: Mutex::default() }))
    }

    /// The look-up of this name that is under way, or a new one. It goes on if whoever asked goes away: others may
    /// have joined.
    fn look_up(&self, host: &str) -> Result<Arc<LookUp>, NameError> {
        let mut under_way = self.0.under_way.lock();
        if let Some(look_up) = under_way.get(host) {
            return Ok(Arc::clone(look_up));
        }
        if under_way.len() >= self.0.settings.at_once {
            return Err(NameError::TooMany);
        }
        let (host, look_up) = (Arc::<str>::from(host), Arc::new(LookUp::new()));
        under_way.insert(Arc::clone(&host), Arc::clone(&look_up));
        let (inner, answer) = (Arc::clone(&self.0), Arc::clone(&look_up));
        tokio::spawn(async move {
            let found = inner.ask(&host).await;
            inner.under_way.lock().remove(&host);
            // Nobody else sets it.
            let _ = answer.set(found);
        });
        Ok(look_up)
    }
}

impl HostNames for Names {
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a> {
        Box::pin(async move { self.look_up(host)?.wait().await.clone() })
    }
}

impl Inner {
    async fn ask(&self, host: &Arc<str>) -> Result<Arc<[IpAddr]>, NameError> {
        let failed = |cause: &dyn std::fmt::Display| NameError::Failed {
            host: Arc::clone(host),
            cause: cause.to_string().into(),
        };
        let mut name = Name::from_str(host).map_err(|error| failed(&error))?;
        // Whole as it is: this machine's search domains are none of the mesh's.
        name.set_fqdn(true);
        let resolver = self.resolver.as_ref().map_err(|cause| failed(cause))?;
        let answer = timeout(self.settings.deadline, resolver.lookup_ip(name)).await;
        match answer.map_err(|_| NameError::Deadline(Arc::clone(host)))? {
            Ok(found) => Ok(found.iter().take(self.settings.addresses).collect()),
            Err(error) if error.is_no_records_found() => Err(NameError::NotFound(Arc::clone(host))),
            Err(error) => Err(failed(&error)),
        }
    }
}

fn resolver(
    config: ResolverConfig,
    mut options: ResolverOpts,
    settings: &NameSettings,
) -> Result<TokioResolver, NetError> {
    options.cache_size = settings.remembered;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // A workload's host name is not of this machine.
    options.use_hosts_file = ResolveHosts::Never;
    (options.positive_min_ttl, options.positive_max_ttl) = some(settings.positive);
    (options.negative_min_ttl, options.negative_max_ttl) = some(settings.negative);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build()
}

fn some<T>((least, most): (T, T)) -> (Option<T>, Option<T>) {
    (Some(least), Some(most))
}
