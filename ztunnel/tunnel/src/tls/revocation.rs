//! Which certificates are revoked, and which connections stand on them.
//!
//! Handshakes look a certificate up. Connections that stand are entered in a book, which is gone through when the lists
//! change and at no other time.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use model::{Revoked, TrustDomain, revocation::CertificateId};
use parking_lot::Mutex;
use rustls::CertificateError;
use rustls_pki_types::CertificateDer;
use tokio::sync::oneshot;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::TlsFailure;

#[derive(Debug, Default)]
pub(crate) struct Revocation {
    revoked: ArcSwap<Revoked>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    entries: HashMap<u64, Entry>,
}

/// The certificates by which both ends of a connection have proven themselves.
#[derive(Debug)]
struct Entry {
    peer: Box<[CertificateId]>,
    own: Arc<[CertificateId]>,
    revoke: oneshot::Sender<()>,
}

/// A connection's place in the book.
#[derive(Debug)]
pub(crate) struct Standing {
    revocation: Arc<Revocation>,
    number: u64,
    revoked: oneshot::Receiver<()>,
}

/// By what lists name the certificates of a chain whose leaf is of this trust domain.
pub(super) fn ids(
    domain: &TrustDomain,
    chain: &[CertificateDer<'_>],
) -> Result<Box<[CertificateId]>, CertificateError> {
    let id = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
        Ok(CertificateId::new(domain, certificate.issuer().as_raw(), certificate.raw_serial()))
    };
    chain.iter().map(id).collect()
}

impl Revocation {
    /// From now on these are revoked. Connections that stand on one of them are told so.
    pub(crate) fn replace(&self, revoked: &Arc<Revoked>) {
        self.revoked.store(Arc::clone(revoked));
        let ended: Vec<_> = self.book.lock().entries.extract_if(|_, entry| entry.is_of(revoked)).collect();
        for (_, entry) in ended {
            // It may have ended by itself in this moment.
            let _ = entry.revoke.send(());
        }
    }

    /// Refuses a chain of which any certificate is revoked.
    pub(super) fn check(
        &self,
        domain: &TrustDomain,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), CertificateError> {
        let revoked = self.revoked.load();
        let chains = [ids(domain, std::slice::from_ref(leaf))?, ids(domain, intermediates)?];
        match chains.iter().flatten().any(|id| revoked.contains(id)) {
            true => Err(CertificateError::Revoked),
            false => Ok(()),
        }
    }

    /// Enters a connection. Asked again after that, so that no change falls between handshake and book.
    pub(crate) fn enter(
        self: &Arc<Self>,
        domain: &TrustDomain,
        peer: &[CertificateDer<'_>],
        own: &Arc<[CertificateId]>,
    ) -> Result<Standing, TlsFailure> {
        let peer = ids(domain, peer).map_err(|error| TlsFailure::BadCertificate(error.into()))?;
        let (revoke, receiver) = oneshot::channel();
        let mut book = self.book.lock();
        let number = book.next;
        book.next += 1;
        book.entries.insert(number, Entry { peer, own: Arc::clone(own), revoke });
        let standing = Standing { revocation: Arc::clone(self), number, revoked: receiver };
        let failure = book.entries.get(&number).and_then(|entry| entry.failure(&self.revoked.load()));
        drop(book);
        match failure {
            Some(failure) => Err(failure),
            None => Ok(standing),
        }
    }
}

impl Entry {
    fn is_of(&self, revoked: &Revoked) -> bool {
        self.failure(revoked).is_some()
    }

    fn failure(&self, revoked: &Revoked) -> Option<TlsFailure> {
        if self.peer.iter().any(|id| revoked.contains(id)) {
            return Some(TlsFailure::Revoked);
        }
        self.own.iter().any(|id| revoked.contains(id)).then_some(TlsFailure::OwnRevoked)
    }
}

impl Standing {
    /// Ready once one of the connection's certificates is revoked. Not to be polled after that.
    pub(crate) fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.revoked).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // Only this place's own drop forgets the sender.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.revocation.book.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use model::revocation::RevocationList;
    use rcgen::{CertificateParams, KeyPair};
    use std::task::Waker;

    use super::*;

    fn certificate(serial: u64) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::default();
        parameters.serial_number = Some(serial.into());
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn domain() -> TrustDomain {
        "td".parse().unwrap()
    }

    fn revoking(certificate: &CertificateDer<'_>) -> Arc<Revoked> {
        let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
        let list = RevocationList::new([domain()], parsed.issuer().as_raw(), [parsed.raw_serial()]);
        Arc::new([Arc::new(list)].into_iter().collect())
    }

    fn is_revoked(standing: &mut Standing) -> bool {
        standing.poll_revoked(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Fails if a connection whose certificate, or whose issuer's, is revoked goes on, if another's ends, or if the
    /// book grows.
    #[test]
    fn connections_end_with_any_certificate_they_stand_on_and_no_other() {
        let revocation = Arc::<Revocation>::default();
        let [leaf, intermediate, own, stranger] = [1, 2, 3, 4].map(certificate);
        let own_ids: Arc<[CertificateId]> = ids(&domain(), std::slice::from_ref(&own)).unwrap().into();
        let chain = [leaf.clone(), intermediate.clone()];
        for (revoked, ends) in [(&leaf, true), (&intermediate, true), (&own, true), (&stranger, false)] {
            revocation.replace(&Arc::default());
            let mut standing = revocation.enter(&domain(), &chain, &own_ids).unwrap();
            assert!(!is_revoked(&mut standing));
            revocation.replace(&revoking(revoked));
            assert_eq!(is_revoked(&mut standing), ends);
            let again = revocation.enter(&domain(), &chain, &own_ids);
            assert_eq!(again.is_err(), ends, "whoever comes after the change");
        }
        assert!(revocation.book.lock().entries.is_empty());
    }
}
