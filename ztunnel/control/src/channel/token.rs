//! The service account's token, read anew each time: the kubelet replaces it long before it expires.

use std::{
    io,
    path::{Path, PathBuf},
};

use http::HeaderValue;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

const MAX_BYTES: u64 = 64 << 10;

/// Never quotes the token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the token file {path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the token file {path} holds no token", path = path.display())]
    Unfit { path: PathBuf },
}

/// The value of `authorization`, marked so that nobody prints it.
pub(super) async fn bearer(path: &Path) -> Result<HeaderValue, TokenError> {
    let file = |source| TokenError::File { path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    let opened = tokio::fs::File::open(path).await.map_err(file)?;
    opened.take(MAX_BYTES).read_to_string(&mut text).await.map_err(file)?;
    let token = text.trim();
    let unfit = || TokenError::Unfit { path: path.to_owned() };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unfit());
    }
    let bearer = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::try_from(bearer.as_str()).map_err(|_| unfit())?;
    value.set_sensitive(true);
    Ok(value)
}
