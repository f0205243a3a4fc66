//! One gRPC stream of delta ADS. Its frames are read here: the library's own stream keeps, as long as it lives, a buffer as
//! large as the largest response that ever came, which is the whole mesh.

use std::{future::poll_fn, mem};

use futures::{Stream, StreamExt};
use http::{HeaderValue, Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    prost::Message,
    tonic::{Code, Status, body::Body, codegen::Service as _},
};

use crate::channel::Connection;

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A byte that says whether the message is compressed, and its length.
const HEADER: usize = 5;

pub(super) struct Responses {
    body: Incoming,
    messages: Messages,
    is_over: bool,
}

struct Messages {
    /// What has come of the next message, and of those behind it.
    buffer: Vec<u8>,
    /// Longer ones end the stream.
    longest: usize,
}

impl Responses {
    pub(super) async fn open(
        mut connection: Connection,
        requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
        longest: usize,
    ) -> Result<Self, Status> {
        let frames = requests.map(|request| Ok::<_, Status>(Frame::data(framed(&request))));
        let mut request = Request::new(Body::new(StreamBody::new(frames)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(PATH);
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        poll_fn(|context| connection.poll_ready(context)).await.map_err(Status::from_error)?;
        let (head, body) = connection.call(request).await.map_err(Status::from_error)?.into_parts();
        let is_over = match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            Some(_) => true,
            None if head.status != StatusCode::OK => {
                return Err(Status::unavailable(format!("HTTP status {}", head.status)));
            }
            None => false,
        };
        Ok(Self { body, messages: Messages { buffer: Vec::new(), longest }, is_over })
    }

    /// `None` once it has ended without an error. What has come so far is kept if the call is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            if let Some(message) = self.messages.take()? {
                return Ok(Some(message));
            }
            if self.is_over {
                return Ok(None);
            }
            let frame =
                self.body.frame().await.ok_or_else(|| Status::unknown("it ended without a status"))?;
            match frame.map_err(|error| Status::from_error(Box::new(error)))?.into_data() {
                Ok(data) => self.messages.buffer.extend_from_slice(&data),
                Err(other) => self.end(other.trailers_ref())?,
            }
        }
    }

    fn end(&mut self, trailers: Option<&http::HeaderMap>) -> Result<(), Status> {
        let status = trailers.and_then(Status::from_header_map);
        match status.unwrap_or_else(|| Status::unknown("it ended without a status")) {
            status if status.code() != Code::Ok => Err(status),
            _ if !self.messages.buffer.is_empty() => Err(Status::internal("it ended within a message")),
            _ => {
                self.is_over = true;
                Ok(())
            }
        }
    }
}

impl Messages {
    /// The next one, if all of it is there; with the memory that it stood in.
    fn take(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let Some((&[compressed, a, b, c, d], _)) = self.buffer.split_first_chunk() else { return Ok(None) };
        if compressed != 0 {
            return Err(Status::unimplemented("it is compressed, which was not asked for"));
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > self.longest {
            return Err(Status::out_of_range(format!(
                "a response of {length} bytes, expected at most {}",
                self.longest
            )));
        }
        if self.buffer.len() - HEADER < length {
            return Ok(None);
        }
        let rest = self.buffer.split_off(HEADER + length);
        let message = Bytes::from(mem::replace(&mut self.buffer, rest)).split_off(HEADER);
        let undecodable = |error| Status::internal(format!("no response: {error}"));
        DeltaDiscoveryResponse::decode(message).map(Some).map_err(undecodable)
    }
}

fn framed(request: &DeltaDiscoveryRequest) -> Bytes {
    let message = request.encode_to_vec();
    // The protocol keeps its requests to a few MiB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(nonce: u32) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse { nonce: nonce.to_string(), ..DeltaDiscoveryResponse::default() }
    }

    fn message(compressed: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        [&[compressed][..], &length.to_be_bytes(), body].concat()
    }

    proptest! {
        /// Would break if a message were lost, read twice or cut where frames of HTTP/2 begin and end.
        #[test]
        fn messages_are_the_same_however_they_come(count in 0u32..20, sizes in proptest::collection::vec(1usize..40, 1..200)) {
            let all: Vec<u8> = (0..count).flat_map(|nonce| message(0, &response(nonce).encode_to_vec())).collect();
            let mut messages = Messages { buffer: Vec::new(), longest: 100 };
            let (mut rest, mut read) = (&all[..], Vec::new());
            for size in sizes.iter().cycle() {
                let (piece, later) = rest.split_at(rest.len().min(*size));
                messages.buffer.extend_from_slice(piece);
                rest = later;
                while let Some(message) = messages.take().unwrap() {
                    read.push(message);
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(read, (0..count).map(response).collect::<Vec<_>>());
            prop_assert!(messages.buffer.is_empty());
        }
    }

    /// Would break if a length were believed before it is held against the limit, or what we cannot read were skipped.
    #[test]
    fn what_is_too_long_compressed_or_no_response_ends_the_stream() {
        for (buffer, code) in [
            (vec![0, 0, 0, 0, 101], Code::OutOfRange),
            (vec![0, 0xff, 0xff, 0xff, 0xff], Code::OutOfRange),
            (message(1, b""), Code::Unimplemented),
            (message(0, &[0xff; 3]), Code::Internal),
        ] {
            let mut messages = Messages { buffer, longest: 100 };
            assert_eq!(messages.take().unwrap_err().code(), code);
        }
    }
}
