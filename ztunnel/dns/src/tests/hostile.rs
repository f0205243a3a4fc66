//! Whatever comes, nothing breaks, and nothing is longer than it may be.

use std::sync::LazyLock;

use proptest::{collection::vec, prelude::*};

use super::*;

static MESH: LazyLock<Snapshot> = LazyLock::new(|| {
    let many = (0..300).map(|n| {
        let ip = format!("10.1.{}.{}", n / 100, n % 100);
        workload(&format!("w{n}"), "shop", &[&ip, &format!("fd01::{n:x}")], &["shop/many.example"])
    });
    mesh(vec![service("shop/many.example", &[]), service("shop/*.example", &["/10.96.0.7"])], many.collect())
});

/// As a pod's bytes are treated, whatever they are.
fn treat(bytes: &[u8], transport: Transport, dice: u64) -> Result<(), TestCaseError> {
    let view = View { transport, dice, ..UDP };
    let client = MESH.workload(&WorkloadUid::new("client")).unwrap();
    match Query::parse(bytes) {
        Err(Malformed::Unanswerable) => {}
        Err(Malformed::Refused(told)) => prop_assert!(Message::from_vec(&told).is_ok() && told.len() == 12),
        Ok(query) => match answer(&MESH, client, &query, &view) {
            Answer::Forward => {}
            Answer::Reply(told) => {
                prop_assert!(told.len() <= query.room(transport), "{} bytes", told.len());
                let told = Message::from_vec(&told).unwrap();
                prop_assert_eq!(told.metadata.id.to_be_bytes(), [bytes[0], bytes[1]]);
            }
        },
    }
    Ok(())
}

fn transport() -> impl Strategy<Value = Transport> {
    proptest::sample::select(vec![Transport::Udp, Transport::Tcp])
}

fn asked() -> impl Strategy<Value = Message> {
    let names =
        vec!["web", "many.example", "_80._tcp.many.example", "a.b.example", "w1.many.example", "x.org"];
    let kinds = vec![RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT];
    let extensions = proptest::option::of((any::<u16>(), 0..2_u8, any::<bool>()));
    (proptest::sample::select(names), proptest::sample::select(kinds), extensions).prop_map(
        |(name, kind, edns)| {
            let mut message = request(name, kind);
            if let Some((payload, version, dnssec)) = edns {
                let mut edns = Edns::new();
                edns.set_max_payload(payload).set_version(version).set_dnssec_ok(dnssec);
                message.set_edns(edns);
            }
            message
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A panic on what a pod sends would end the whole node's daemon.
    #[test]
    fn bytes_at_random_break_nothing(bytes in vec(any::<u8>(), 0..600), transport in transport()) {
        treat(&bytes, transport, 0)?;
    }

    /// The same, for what is nearly a request, which gets further.
    #[test]
    fn requests_with_wrong_bytes_break_nothing(
        asked in asked(),
        wrong in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        more in vec(any::<u8>(), 0..40),
        transport in transport(),
    ) {
        let mut bytes = asked.to_vec().unwrap();
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(more);
        treat(&bytes, transport, 0)?;
    }

    /// An answer longer than the asker has room for is cut off on the way, without a word of it.
    #[test]
    fn no_answer_is_longer_than_it_may_be(asked in asked(), transport in transport(), dice in any::<u64>()) {
        treat(&asked.to_vec().unwrap(), transport, dice)?;
    }
}
