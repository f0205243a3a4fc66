//! The journey into a pod without a tunnel: the client has proven nothing, and policy knows it.
//!
//! Whatever is refused is reset, like a port that is closed.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use model::{
    ClientAddr, MtlsMode, NetworkAddress, OriginalDst, Role, SvidSource, Workload, WorkloadUid, mtls::mtls,
};
use telemetry::{Admission, Ledger, OpenPlaintext, Outcome, Path};

use crate::{
    Arrival, PodSockets,
    accept::Pending,
    copy::between_sockets,
    failure::Failure,
    leg::Leg,
    limits::PENDING_PER_SOURCE,
    own_legs::OwnLeg,
    room::Seat,
    serve::{Pod, Source},
    shares::Share,
    standing::{Claim, Place},
};

/// A connection that stands, and what it holds for as long as it does.
struct LetIn {
    application: Leg,
    place: Place<Claim>,
    _share: Share<Source>,
    _own: OwnLeg,
    _listed: Option<OpenPlaintext>,
}

impl<S: SvidSource, P: PodSockets> Pod<S, P> {
    pub(crate) async fn inbound_plaintext(self: Arc<Self>, arrival: Arrival, seat: Seat, place: Pending) {
        let Arrival { stream, client, destination } = arrival;
        let uid = self.local.uid.clone();
        let mut ledger = self.proxy.ledgers.open(Role::InboundPlaintext, uid, client, destination);
        ledger.set_path(Path::Plaintext);
        let outcome = match (Leg::new(stream, seat), self.pending_of(client)) {
            (Ok(leg), Ok(share)) => {
                self.carry_plaintext(leg, client, destination, (place, share), &mut ledger).await
            }
            (Err(error), _) => Failure::from(error).into_outcome(),
            (_, Err(failure)) => failure.into_outcome(),
        };
        ledger.close(&outcome);
    }

    /// Else one source, and an application that takes nothing, would leave the pod no place for anybody else.
    fn pending_of(&self, ClientAddr(client): ClientAddr) -> Result<Share<IpAddr>, Failure> {
        self.pending.take(client.ip().to_canonical()).ok_or_else(|| {
            self.limited(PENDING_PER_SOURCE);
            Failure::Limited(PENDING_PER_SOURCE)
        })
    }

    /// Failing drops the client's leg, which resets it.
    async fn carry_plaintext(
        &self,
        client_leg: Leg,
        client: ClientAddr,
        destination: OriginalDst,
        pending: (Pending, Share<IpAddr>),
        ledger: &mut Ledger,
    ) -> Outcome {
        let lane = self.lane(client.0.ip());
        let letting_in = Box::pin(self.let_in(client, destination, ledger));
        let connected = self.proxy.tunnel.turnstile().pass(lane, letting_in).await;
        let LetIn { application, mut place, _share, _own, _listed } = match connected {
            Ok(connected) => connected,
            Err(failure) => return failure.into_outcome(),
        };
        drop(pending);
        ledger.establish();
        let counters = [ledger.counters()];
        let carrying = Box::pin(between_sockets(client_leg, application, &counters, &self.proxy.pipes));
        // What was revoked while it was being connected carries no byte.
        tokio::select! {
            biased;
            refusal = place.revoked() => Outcome::Refused(refusal),
            outcome = carrying => outcome,
        }
    }

    async fn let_in(
        &self,
        client: ClientAddr,
        OriginalDst(target): OriginalDst,
        ledger: &mut Ledger,
    ) -> Result<LetIn, Failure> {
        if self.own_legs.contains((client.0, target)) {
            return Err(Failure::Loop(target));
        }
        let _share = self.share_of(Source::Unproven(client.0.ip().to_canonical()))?;
        let workload = Arc::clone(self.workload(&self.snapshot())?);
        ledger.set_destination(&workload);
        let judgement = ledger.judgement();
        let claim =
            Claim { workload: Arc::clone(&workload), client, peer: None, target, named: target, judgement };
        let place = self.standing.enter(claim);
        let (application, _own) = self.connect_application(&place).await?;
        let _listed = self.note_plaintext(&workload, client, target.port());
        Ok(LetIn { application, place, _share, _own, _listed })
    }

    /// At a bounded rate: strangers come from ever new addresses.
    fn tell_plaintext(&self, from: &str, to: &WorkloadUid, port: u16) {
        if let Admission::Write { .. } = self.proxy.log.admit("plaintext_accepted", std::time::Instant::now())
        {
            tracing::warn!(from, %to, port, "plaintext accepted; a strict workload would refuse it");
        }
    }

    /// Where nothing but plaintext is accepted, nobody is to be told to stop sending it.
    fn note_plaintext(
        &self,
        workload: &Workload,
        ClientAddr(client): ClientAddr,
        port: u16,
    ) -> Option<OpenPlaintext> {
        let snapshot = self.snapshot();
        if mtls(&snapshot, workload, port, self.standing.mtls()).mode != MtlsMode::Permissive {
            return None;
        }
        let ip = client.ip().to_canonical();
        let source = snapshot.workload_at(&NetworkAddress { network: workload.network.clone(), ip });
        let book = self.proxy.ledgers.plaintext();
        let (listed, telling) = book.note(source, ip, workload, port, SystemTime::now());
        if telling {
            let from = source.map_or_else(|| ip.to_string(), |source| source.uid.to_string());
            self.tell_plaintext(&from, &workload.uid, port);
        }
        Some(listed)
    }
}
