//! Who gets which certificate, over the wire.

use control::AuthorityError;
use testkit::api_server::{Fault, Reviewed};

use super::{Cluster, Daemon, OWN, Replica};

/// Fails if a daemon, or who has some other token, got an identity that is not its node's.
#[test]
fn an_identity_is_for_the_daemon_of_its_node() {
    Cluster::each(|cluster| {
        let replica = Replica::start(&cluster, "one", &[]);
        let [first, second] = [1, 2].map(|node| Daemon::of(&cluster, node));
        first.certificate(&cluster, &replica, "account-1").unwrap();
        second.certificate(&cluster, &replica, "account-2").unwrap();
        for (daemon, account) in
            [(&first, "account-2"), (&second, "account-1"), (&first, "default"), (&first, "nobody")]
        {
            let error = daemon.certificate(&cluster, &replica, account).unwrap_err();
            assert!(error.to_string().contains("PermissionDenied"), "{account}: {error}");
        }
        for token in ["", "made-up", &cluster.token(1, "another-audience")] {
            let stranger = Daemon::with_token(&cluster, token);
            let error = stranger.certificate(&cluster, &replica, "account-1").unwrap_err();
            let is_refused =
                matches!(error, AuthorityError::Unauthenticated(_) | AuthorityError::Unreachable(_));
            assert!(is_refused, "{token}: {error}");
        }
        assert_eq!(replica.metric("certificates_total"), Some(2));
        assert_eq!(replica.metric("refused_certificates_total"), Some(4));
        assert!(replica.metric("refused_tokens_total") >= Some(2));
    });
}

/// Fails if an API server that fails let anybody in, or kept a daemon out once it is back; or if a token that says another
/// node, or another pod's, were taken.
#[test]
fn what_the_api_server_says_counts() {
    let cluster = Cluster::of_test();
    let replica = Replica::start(&cluster, "one", &[]);
    let daemon = Daemon::of(&cluster, 1);
    cluster.test().inject(Fault::status("tokenreviews", 500));
    let error = daemon.certificate(&cluster, &replica, "account-1").unwrap_err();
    assert_eq!(error.reason(), "unreachable", "{error}");
    daemon.certificate(&cluster, &replica, "account-1").unwrap();
    for (token, pod, node) in [("moved", "ztunnel-1", "node-2"), ("foreign", "ztunnel-9", "node-1")] {
        cluster.test().accept_token(token, Reviewed::pod(OWN, "ztunnel", pod, node, "istio-ca"));
        let stranger = Daemon::with_token(&cluster, token);
        let error = stranger.certificate(&cluster, &replica, "account-1").unwrap_err();
        assert!(error.to_string().contains("PermissionDenied"), "{token}: {error}");
    }
}
