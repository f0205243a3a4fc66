//! The tunnel: mutual TLS and HBONE, in both roles.
#![forbid(unsafe_code)]

mod error;
mod settings;

use std::{io, marker::PhantomData, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use model::{Permit, SpiffeId, SvidSource, TunnelRoute, WorkloadUid};
use tokio::net::TcpStream;

pub use error::{DialError, Phase, StreamError, TerminateError, TlsFailure};
pub use settings::{Deadlines, TunnelSettings, WindowSettings};

pub type ConnectFn = Box<dyn FnOnce(SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> + Send>;

pub struct Tunnel<S: SvidSource>(PhantomData<Arc<S>>);
impl<S: SvidSource> Clone for Tunnel<S> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}
#[expect(clippy::todo, clippy::unused_async, reason = "filled in by the next commit")]
impl<S: SvidSource> Tunnel<S> {
    pub fn new(_settings: TunnelSettings, _svids: Arc<S>) -> Self {
        todo!()
    }
    pub async fn dial(
        &self,
        _permit: Permit<TunnelRoute>,
        _headers: ConnectHeaders,
        _connect: ConnectFn,
    ) -> Result<Dialed, DialError> {
        todo!()
    }
    pub async fn terminate(&self, _tcp: TcpStream, _identity: &SpiffeId) -> Result<Session, TerminateError> {
        todo!()
    }
    pub fn retire(&self, _source: &WorkloadUid) {
        todo!()
    }
    pub fn drain(&self) {
        todo!()
    }
}
#[derive(Debug)]
pub struct Dialed {
    pub stream: TunnelStream,
    pub peer: SpiffeId,
    pub local: SocketAddr,
    pub baggage: Option<String>,
}
#[derive(Clone, Debug, Default)]
pub struct ConnectHeaders {
    pub baggage: String,
    pub forwarded: String,
    pub traceparent: String,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher_suite: &'static str,
    pub key_exchange: &'static str,
}
#[derive(Debug)]
pub struct Session(());
#[expect(
    clippy::todo,
    clippy::unused_async,
    clippy::needless_pass_by_value,
    reason = "filled in by the next commit"
)]
impl Session {
    pub fn peer(&self) -> &SpiffeId {
        todo!()
    }
    pub fn tls(&self) -> TlsFacts {
        todo!()
    }
    pub async fn next(&mut self) -> Option<Request> {
        todo!()
    }
    pub fn drain(&mut self) {
        todo!()
    }
}
#[derive(Debug)]
pub struct Request(());
#[expect(clippy::todo, clippy::needless_pass_by_value, reason = "filled in by the next commit")]
impl Request {
    pub fn authority(&self) -> &str {
        todo!()
    }
    pub fn headers(&self) -> &ConnectHeaders {
        todo!()
    }
    pub fn accept(self, _baggage: &str) -> Result<TunnelStream, StreamError> {
        todo!()
    }
    pub fn refuse(self, _status: http::StatusCode) {
        todo!()
    }
}
#[derive(Debug)]
pub struct TunnelStream {
    pub receiver: TunnelReceiver,
    pub sender: TunnelSender,
}
#[derive(Debug)]
pub struct TunnelReceiver(());
#[expect(clippy::todo, clippy::unused_async, reason = "filled in by the next commit")]
impl TunnelReceiver {
    pub async fn receive(&mut self) -> Result<Option<Bytes>, StreamError> {
        todo!()
    }
    pub fn release(&mut self, _n: usize) {
        todo!()
    }
}
#[derive(Debug)]
pub struct TunnelSender(());
#[expect(clippy::todo, clippy::unused_async, reason = "filled in by the next commit")]
impl TunnelSender {
    pub async fn send(&mut self, _data: Bytes) -> Result<(), StreamError> {
        todo!()
    }
    pub fn finish(&mut self) -> Result<(), StreamError> {
        todo!()
    }
    pub fn reset(&mut self) {
        todo!()
    }
}
