//! Endpoints that keep failing are set aside for a while.
//!
//! A pure account: it is told of attempts and of the time, and says whom to avoid. It holds a bounded number of suspects,
//! and it only advises: who chooses takes a set-aside endpoint when there is no other, so never are all left out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{WorkloadUid, service::ServiceKey};

#[derive(Clone, Debug)]
pub struct OutlierSettings {
    /// So many failures in a row set an endpoint aside.
    pub failures: u32,
    /// For so long the first time, twice as long each time it fails again upon its return,
    pub shortest: Duration,
    /// and never longer.
    pub longest: Duration,
    /// A failure this long ago no longer counts.
    pub memory: Duration,
    /// Suspects per port of a service. More push out the one that failed longest ago.
    pub endpoints: usize,
    /// Ports of services with suspects, likewise.
    pub services: usize,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            failures: 3,
            shortest: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            memory: Duration::from_secs(600),
            endpoints: 64,
            services: 64,
        }
    }
}

/// A port of a service. An endpoint may be well at one and broken at another.
pub type ServicePort = (ServiceKey, u16);

#[derive(Debug, Default)]
pub struct Outliers {
    settings: OutlierSettings,
    suspects: HashMap<ServicePort, Vec<Suspect>>,
}

#[derive(Debug)]
struct Suspect {
    endpoint: WorkloadUid,
    /// Goes on from where it was when the endpoint returns: its first failure then sets it aside again.
    in_a_row: u32,
    /// How often it was set aside without a success between.
    times: u32,
    last_failure: Instant,
    until: Option<Instant>,
}

impl Outliers {
    pub fn new(settings: OutlierSettings) -> Self {
        Self { settings, suspects: HashMap::new() }
    }

    /// Nobody has failed: there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    /// For how long the endpoint is set aside now, if this failure does it.
    pub fn failed(
        &mut self,
        service: &ServicePort,
        endpoint: &WorkloadUid,
        now: Instant,
    ) -> Option<Duration> {
        let Self { settings, suspects } = self;
        if !suspects.contains_key(service) && suspects.len() >= settings.services.max(1) {
            forget_the_oldest(suspects);
        }
        let suspects = suspects.entry(service.clone()).or_default();
        suspects.retain(|suspect| suspect.counts(settings, now));
        let suspect = entry(suspects, endpoint, settings.endpoints, now);
        suspect.in_a_row = suspect.in_a_row.saturating_add(1);
        suspect.last_failure = now;
        if suspect.is_aside(now) || suspect.in_a_row < settings.failures {
            return None;
        }
        let doubled = settings.shortest.saturating_mul(1 << suspect.times.min(16));
        let length = doubled.min(settings.longest);
        suspect.times += 1;
        suspect.until = Some(now + length);
        Some(length)
    }

    /// It is well again.
    pub fn succeeded(&mut self, service: &ServicePort, endpoint: &WorkloadUid) {
        let Some(suspects) = self.suspects.get_mut(service) else { return };
        suspects.retain(|suspect| suspect.endpoint != *endpoint);
        if suspects.is_empty() {
            self.suspects.remove(service);
        }
    }

    /// Whom to avoid.
    pub fn set_aside(&self, service: &ServicePort, now: Instant) -> Vec<WorkloadUid> {
        let suspects = self.suspects.get(service).into_iter().flatten();
        suspects.filter(|suspect| suspect.is_aside(now)).map(|suspect| suspect.endpoint.clone()).collect()
    }
}

impl Suspect {
    fn is_aside(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn counts(&self, settings: &OutlierSettings, now: Instant) -> bool {
        self.is_aside(now) || now.saturating_duration_since(self.last_failure) < settings.memory
    }
}

fn entry<'a>(
    suspects: &'a mut Vec<Suspect>,
    endpoint: &WorkloadUid,
    limit: usize,
    now: Instant,
) -> &'a mut Suspect {
    let known = suspects.iter().position(|suspect| suspect.endpoint == *endpoint);
    let place = known.unwrap_or_else(|| {
        if suspects.len() >= limit.max(1) {
            let oldest = suspects.iter().enumerate().min_by_key(|(_, suspect)| suspect.last_failure);
            let oldest = oldest.map_or(0, |(place, _)| place);
            suspects.swap_remove(oldest);
        }
        let endpoint = endpoint.clone();
        suspects.push(Suspect { endpoint, in_a_row: 0, times: 0, last_failure: now, until: None });
        suspects.len() - 1
    });
    &mut suspects[place]
}

fn forget_the_oldest(suspects: &mut HashMap<ServicePort, Vec<Suspect>>) {
    let last = |suspects: &[Suspect]| suspects.iter().map(|suspect| suspect.last_failure).max();
    let oldest = suspects.iter().min_by_key(|(_, suspects)| last(suspects)).map(|(key, _)| key.clone());
    if let Some(oldest) = oldest {
        suspects.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn uid(name: impl std::fmt::Display) -> WorkloadUid {
        WorkloadUid::new(&name.to_string())
    }

    fn web() -> ServicePort {
        ("a/web".parse().unwrap(), 80)
    }

    #[test]
    fn it_takes_failures_in_a_row_and_a_success_clears_them() {
        let (mut outliers, start) = (Outliers::default(), Instant::now());
        for _ in 0..2 {
            assert_eq!(outliers.failed(&web(), &uid("e"), start), None);
        }
        outliers.succeeded(&web(), &uid("e"));
        assert!(outliers.is_empty());
        for _ in 0..2 {
            assert_eq!(outliers.failed(&web(), &uid("e"), start), None);
        }
        assert_eq!(outliers.failed(&web(), &uid("e"), start), Some(30 * SECOND));
        assert_eq!(outliers.set_aside(&web(), start + 29 * SECOND), [uid("e")]);
        assert!(outliers.set_aside(&web(), start + 30 * SECOND).is_empty());
        assert!(outliers.set_aside(&("a/web".parse().unwrap(), 443), start).is_empty(), "another port");
    }

    #[test]
    fn who_fails_again_upon_return_stays_away_longer_up_to_a_limit() {
        let (mut outliers, mut now) = (Outliers::default(), Instant::now());
        outliers.failed(&web(), &uid("e"), now);
        outliers.failed(&web(), &uid("e"), now);
        for expected in [30, 60, 120, 240, 300, 300] {
            assert_eq!(outliers.failed(&web(), &uid("e"), now), Some(expected * SECOND));
            assert_eq!(outliers.failed(&web(), &uid("e"), now), None, "it is away already");
            now += expected * SECOND;
        }
        now += OutlierSettings::default().memory;
        assert_eq!(outliers.failed(&web(), &uid("e"), now), None, "long ago is forgotten");
    }

    proptest! {
        /// Would break if whoever can make connections fail could make the table grow.
        #[test]
        fn it_never_holds_more_than_it_may(failures in proptest::collection::vec((0u8..9, 0u8..20, 0u64..100), 0..400)) {
            let settings = OutlierSettings { endpoints: 4, services: 3, ..OutlierSettings::default() };
            let (mut outliers, mut now) = (Outliers::new(settings), Instant::now());
            for (service, endpoint, seconds) in failures {
                now += Duration::from_secs(seconds);
                let service = (format!("a/{service}").parse().unwrap(), 80);
                outliers.failed(&service, &uid(endpoint), now);
                prop_assert!(outliers.suspects.len() <= 3);
                prop_assert!(outliers.suspects.values().all(|suspects| suspects.len() <= 4));
                prop_assert!(outliers.suspects[&service].iter().any(|s| s.endpoint == uid(endpoint)));
            }
        }
    }
}
