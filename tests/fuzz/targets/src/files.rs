//! State and pods files.

use std::collections::HashSet;

use control::{pods_of, state_of};

/// A file that loads says one thing, and what is wrong with one that does not is told in one line with its place.
pub fn state_file(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let trust_domain = "cluster.local".parse().expect("a trust domain");
    let load = || state_of("state.yaml".as_ref(), text, &trust_domain);
    let (snapshot, report) = match load() {
        Ok(loaded) => loaded,
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("state.yaml:") && !error.contains('\n'), "{error}");
            return;
        }
    };
    let (again, _) = load().expect("as before");
    assert_eq!(snapshot, again);
    let doubted = snapshot.policies().filter(|policy| !policy.unenforced().is_empty()).count();
    assert_eq!(report.objects["policiesNotFullyEnforced"], doubted);
    assert!(doubted > 0 || report.mistakes.is_empty(), "{:?}", report.mistakes);
    assert!(report.mistakes.iter().all(|told| told.starts_with("state.yaml:") && !told.contains('\n')));
    let mut addresses = HashSet::new();
    for workload in snapshot.workloads() {
        assert!(!workload.uid.as_str().is_empty());
        for address in workload.addresses().filter(|_| workload.network_mode == Default::default()) {
            assert!(addresses.insert(address.to_string()), "{address} is two workloads'");
        }
    }
}

/// No two pods of a list that loads can be taken for one another, and none has an address that is no pod's.
pub fn pods_file(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let Ok((pods, _)) = pods_of("pods.yaml".as_ref(), text) else { return };
    let mut taken = HashSet::new();
    for pod in &pods {
        assert!(taken.insert(format!("uid {}", pod.uid)) && pod.netns.is_absolute());
        assert!(taken.insert(format!("netns {}", pod.netns.display())));
        assert!((1..=2).contains(&pod.ips.len()));
        for ip in &pod.ips {
            assert!(taken.insert(format!("ip {ip}")), "{ip} is two pods'");
            assert!(!ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(), "{ip}");
        }
    }
}
