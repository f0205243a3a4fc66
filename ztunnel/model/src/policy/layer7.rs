//! What only layer 7 can tell. Such fields are recognised, under the names that Istio's AuthorizationPolicy gives
//! them, and never enforced here: that is a waypoint's work. What must not happen is that leaving them out widens
//! access; see [`super::compiled`].

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Match, Policy};

/// A field that is given or not; what it says is nothing to us. An empty list gives nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unenforced(bool);

impl Unenforced {
    pub const GIVEN: Self = Self(true);

    pub fn is_given(&self) -> bool {
        self.0
    }

    pub(super) fn is_absent(&self) -> bool {
        !self.0
    }
}

impl Match {
    /// The fields that are given and not enforced: those of layer 7, and those that are not understood.
    pub fn unenforced(&self) -> impl Iterator<Item = &str> {
        let not_understood = self.not_understood.iter().map(String::as_str);
        self.layer_7().map(|name: &str| name).chain(not_understood)
    }

    fn layer_7(&self) -> impl Iterator<Item = &'static str> + use<> {
        [
            ("hosts", self.hosts),
            ("notHosts", self.not_hosts),
            ("methods", self.methods),
            ("notMethods", self.not_methods),
            ("paths", self.paths),
            ("notPaths", self.not_paths),
            ("requestPrincipals", self.request_principals),
            ("notRequestPrincipals", self.not_request_principals),
            ("remoteIpBlocks", self.remote_ip_blocks),
            ("notRemoteIpBlocks", self.not_remote_ip_blocks),
            ("when", self.when),
            ("extensions", self.extensions),
        ]
        .into_iter()
        .filter_map(|(name, field)| field.is_given().then_some(name))
    }

    /// The part that is understood.
    pub(super) fn layer_4(&self) -> Self {
        Self {
            hosts: Unenforced::default(),
            not_hosts: Unenforced::default(),
            methods: Unenforced::default(),
            not_methods: Unenforced::default(),
            paths: Unenforced::default(),
            not_paths: Unenforced::default(),
            request_principals: Unenforced::default(),
            not_request_principals: Unenforced::default(),
            remote_ip_blocks: Unenforced::default(),
            not_remote_ip_blocks: Unenforced::default(),
            when: Unenforced::default(),
            extensions: Unenforced::default(),
            not_understood: Vec::new(),
            ..self.clone()
        }
    }
}

impl Policy {
    /// The fields that are given anywhere in it and not enforced, each once.
    pub fn unenforced(&self) -> Vec<&str> {
        let own = self.not_understood.iter().map(String::as_str);
        let matches = self.matches().flat_map(|m| m.not_understood.iter().map(String::as_str));
        once_each(own.chain(matches).chain(self.layer_7()).collect())
    }

    /// Those of them that are of layer 7.
    pub fn layer_7(&self) -> Vec<&'static str> {
        let own = self.extensions.is_given().then_some("extensions");
        once_each(own.into_iter().chain(self.matches().flat_map(Match::layer_7)).collect())
    }

    fn matches(&self) -> impl Iterator<Item = &Match> {
        self.rules.iter().flatten().flatten()
    }
}

fn once_each(mut fields: Vec<&str>) -> Vec<&str> {
    fields.sort_unstable();
    fields.dedup();
    fields
}

/// What a dump shows in place of the field's text.
const SHOWN: &str = "not enforced";

impl Serialize for Unenforced {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 { serializer.serialize_str(SHOWN) } else { serializer.serialize_none() }
    }
}

impl<'de> Deserialize<'de> for Unenforced {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Unenforced;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Unenforced, E> {
        Ok(Unenforced(false))
    }

    fn visit_none<E: Error>(self) -> Result<Unenforced, E> {
        Ok(Unenforced(false))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Unenforced, E> {
        Ok(Unenforced(true))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Unenforced, E> {
        Ok(Unenforced(true))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Unenforced, E> {
        Ok(Unenforced(true))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Unenforced, E> {
        Ok(Unenforced(true))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Unenforced, E> {
        Ok(Unenforced(true))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unenforced, A::Error> {
        let mut given = false;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            given = true;
        }
        Ok(Unenforced(given))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unenforced, A::Error> {
        let mut given = false;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            given = true;
        }
        Ok(Unenforced(given))
    }
}
