//! Which pods files are good.

use super::*;

fn loaded(text: &str) -> Result<Vec<LocalPod>, String> {
    let (sender, receiver) = watch::channel(Arc::default());
    load(Path::new("pods.yaml"), text, &sender).map_err(|error| error.to_string())?;
    Ok(receiver.borrow().to_vec())
}

#[test]
fn a_pod_may_leave_out_all_but_uid_netns_and_address() {
    let pods = loaded(
        "pods:
  - {uid: a, netns: /run/netns/a, ips: [10.1.0.10, 'fd01::10']}
  - uid: b
    netns: /run/netns/b
    ips: [10.1.0.11]
    failMode: open
    mtls: strict
    excludeOutboundPorts: [53]
    excludeInboundPorts: [9100]
",
    )
    .unwrap();
    assert_eq!((pods[0].fail_mode, pods[0].mtls), (FailMode::Closed, None));
    assert_eq!((pods[1].fail_mode, pods[1].mtls), (FailMode::Open, Some(MtlsMode::Strict)));
    assert_eq!(
        (&pods[1].exclude_outbound_ports[..], &pods[1].exclude_inbound_ports[..]),
        (&[53][..], &[9100][..])
    );
    assert_eq!(loaded("pods: []\n"), Ok(Vec::new()));
}

#[test]
fn what_cannot_be_a_pod_is_refused_with_its_line() {
    for (pod, expected) in [
        ("{uid: '', netns: /n, ips: [10.0.0.1]}", "uid"),
        ("{uid: x, netns: n, ips: [10.0.0.1]}", "absolute path"),
        ("{uid: x, netns: /n, ips: []}", "one address"),
        ("{uid: x, netns: /n, ips: [10.0.0.1, 10.0.0.2]}", "one of each family"),
        ("{uid: x, netns: /n, ips: [127.0.0.1]}", "cannot be a pod's"),
        ("{uid: x, netns: /n, ips: ['::ffff:10.0.0.1']}", "cannot be a pod's"),
        ("{uid: x, netns: /n, ips: [10.0.0.1], failMode: maybe}", "closed"),
        ("{uid: x, netns: /n, ips: [10.0.0.1], excludeInboundPorts: [0]}", "1 to 65535"),
        ("{uid: x, netns: /n, ips: [10.0.0.1], mtls: disable}", "say it in the mesh's settings"),
        ("{uid: x, netns: /n, ips: [10.0.0.1], fail_mode: open}", "failMode"),
        ("{uid: x, netns: /n, ips: [10.9.9.9]}", "that of pod `first`"),
        ("{uid: first, netns: /n, ips: [10.0.0.1]}", "that of pod `first`"),
        ("{uid: x, netns: /first, ips: [10.0.0.1]}", "that of pod `first`"),
    ] {
        let text = format!("pods:\n  - {{uid: first, netns: /first, ips: [10.9.9.9]}}\n  - {pod}\n");
        let error = loaded(&text).unwrap_err();
        assert!(error.starts_with("pods.yaml:3:") && error.contains(expected), "{pod}: {error}");
    }
}
