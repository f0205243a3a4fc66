//! Nothing that is told, logged, formatted or dumped has a private key in it.

use std::io;

use model::svid::SvidKey;
use tracing_subscriber::fmt::MakeWriter;
use zeroize::ZeroizeOnDrop;

use super::*;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = bytes.chunks_exact(3).flat_map(|three| {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 63]))
    });
    sextets.collect()
}

/// The key in all spellings that a log could have it in: its private part, which is 32 bytes after `04 20`.
fn spellings(key: &SvidKey) -> Vec<Vec<u8>> {
    let der = key.expose().secret_der();
    let place = der.windows(2).position(|two| two == [0x04, 0x20]).unwrap() + 2;
    let secret = &der[place..place + 32];
    let hexadecimal: String = secret[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let listed = format!("{:?}", &secret[..6]);
    let mut all = vec![
        secret[..6].to_vec(),
        hexadecimal.to_uppercase().into_bytes(),
        hexadecimal.into_bytes(),
        listed.trim_matches(['[', ']']).as_bytes().to_vec(),
    ];
    // Each of the ways in which base64 may fall upon it.
    all.extend((0..3).map(|start| base64(&secret[start..start + 9]).into_bytes()));
    all
}

fn shows(text: &[u8], key: &SvidKey) -> bool {
    spellings(key).iter().any(|needle| text.windows(needle.len()).any(|window| window == needle))
}

#[tokio::test]
async fn no_key_reaches_a_log_at_any_level_nor_what_is_shown() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let (ca, files) = embedded_ca(&crate::system_clock());
    let certificates = Certificates::start(ca, CertificateSettings::new("cluster.local".parse().unwrap()));
    let svid = certificates.svid(&id("a")).await.unwrap();
    let shown = [
        serde_json::to_string(&certificates.statuses()).unwrap(),
        format!("{svid:?} {svid:#?} {:?}", svid.key),
        format!("{:?} {:?}", certificates.svids(), certificates.trust()),
    ];
    let logged = log.0.lock().clone();
    assert!(String::from_utf8_lossy(&logged).contains("certificate issued"), "nothing was logged");
    assert!(!shows(&logged, &svid.key), "the workload's key is in the log");
    for text in &shown {
        assert!(!shows(text.as_bytes(), &svid.key), "{text}");
    }
    let pem = std::fs::read(files.path().join("key.pem")).unwrap();
    let root = SvidKey::new(rustls_pki_types::pem::PemObject::from_pem_slice(&pem).unwrap());
    assert!(!shows(&logged, &root), "the root's key is in the log");
    // The needles are such that they would be found.
    let leak = format!("{:?}", svid.key.expose().secret_der());
    assert!(shows(leak.as_bytes(), &svid.key) && shows(svid.key.expose().secret_der(), &svid.key));
    let leak: String = svid.key.expose().secret_der().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(shows(leak.as_bytes(), &svid.key));
    let whole = svid.key.expose().secret_der();
    assert!(shows(base64(&whole[..whole.len() / 3 * 3]).as_bytes(), &svid.key));
}

/// Fails to compile if keys outlive their owner in memory.
#[test]
fn keys_are_zeroed_when_dropped() {
    fn zeroed<T: ZeroizeOnDrop>() {}
    zeroed::<SvidKey>();
    zeroed::<zeroize::Zeroizing<rcgen::KeyPair>>();
}
