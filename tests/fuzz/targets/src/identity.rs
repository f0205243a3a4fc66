//! SPIFFE ids.

use model::SpiffeId;

/// What is an id is spelled in one way only, and each of its parts is what the grammar allows.
pub fn spiffe_id(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.to_string(), text, "two spellings of one identity");
    assert!(text.len() <= 2048 && id.trust_domain().as_str().len() <= 255);
    let parts = [id.trust_domain().as_str(), "ns", id.namespace(), "sa", id.service_account()];
    assert_eq!(text.strip_prefix("spiffe://").expect("the scheme"), parts.join("/"));
    assert_eq!(text, format!("spiffe://{}", id.principal()));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    for part in parts {
        assert!(!part.is_empty() && part.bytes().all(allowed), "{part}");
    }
    assert!(![id.namespace(), id.service_account()].iter().any(|part| [".", ".."].contains(part)));
    let again = SpiffeId::new(id.trust_domain().clone(), id.namespace(), id.service_account());
    assert_eq!(again.as_ref(), Ok(&id));
}
