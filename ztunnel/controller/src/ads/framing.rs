//! gRPC's frames around the responses, by ourselves: a generated server keeps, for as long as a stream lives, a buffer as large as
//! the largest response it has sent, which is the whole mesh, once for each daemon.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    prost::Message,
    tonic::{Status, Streaming, body::Body, codec::Codec, metadata::MetadataMap},
};
use tonic_prost::ProstCodec;

use super::Discovery;
use crate::server::Guest;

/// Of a request: a daemon comes back with the versions of all it has.
const MAX_REQUEST: usize = 64 << 20;
/// A flag for compression, and the length.
const HEADER: usize = 5;

/// The only method there is: whatever is asked of this service opens a daemon's stream.
pub(crate) async fn answer(discovery: &Discovery, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let decoder = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default().decoder();
    let requests = Streaming::new_request(decoder, body, None, Some(MAX_REQUEST));
    let Some(guest) = parts.extensions.get::<Guest>().cloned() else {
        return Status::internal("a request without a connection").into_http();
    };
    let opened = discovery.open(&MetadataMap::from_headers(parts.headers), guest, requests).await;
    let responses = match opened {
        Ok(responses) => responses,
        Err(status) => return status.into_http(),
    };
    let responses = responses.chain(stream::once(async { Err(Status::ok("")) }));
    // Whatever ends it is told in trailers, and is the last.
    let frames = responses.scan(false, |ended, response| {
        let frame = (!*ended).then(|| match response {
            Ok(response) => Ok(framed(&response)),
            Err(status) => {
                *ended = true;
                trailers(&status)
            }
        });
        futures::future::ready(frame)
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn framed(response: &DeltaDiscoveryResponse) -> Frame<Bytes> {
    let length = response.encoded_len();
    let mut message = BytesMut::with_capacity(HEADER + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // Fails only where there is no room, and this grows.
    let _ = response.encode(&mut message);
    Frame::data(message.freeze())
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
