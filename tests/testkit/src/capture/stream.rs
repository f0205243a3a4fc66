//! What one side of a connection said, out of its segments.

use std::{collections::HashMap, net::SocketAddr};

use super::Segment;

/// One direction of one connection. Ends at the first byte that the capture lacks.
#[derive(Clone, Debug)]
pub struct Stream {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub bytes: Vec<u8>,
}

/// A stream under construction: the segments that came before those they follow wait.
struct Assembly {
    stream: Stream,
    first: u32,
    waiting: Vec<(u32, Vec<u8>)>,
}

/// Connections whose beginning was not captured are left out.
pub(super) fn assemble(segments: &[Segment]) -> Vec<Stream> {
    let mut assemblies: Vec<Assembly> = Vec::new();
    let mut newest: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    for segment in segments {
        let ends = (segment.source, segment.destination);
        if segment.flags.syn {
            let first = segment.sequence.wrapping_add(1);
            let repeated = newest.get(&ends).is_some_and(|&index| assemblies[index].first == first);
            if !repeated {
                newest.insert(ends, assemblies.len());
                assemblies.push(Assembly::new(segment, first));
            }
        }
        if let Some(&index) = newest.get(&ends) {
            assemblies[index].add(segment);
        }
    }
    assemblies.into_iter().map(|assembly| assembly.stream).collect()
}

impl Assembly {
    fn new(segment: &Segment, first: u32) -> Self {
        let stream = Stream { source: segment.source, destination: segment.destination, bytes: Vec::new() };
        Self { stream, first, waiting: Vec::new() }
    }

    fn add(&mut self, segment: &Segment) {
        if segment.payload.is_empty() {
            return;
        }
        // The SYN takes the number before the first byte, also when it carries data (TCP Fast Open).
        let sequence = segment.sequence.wrapping_add(segment.flags.syn.into());
        if !self.append(sequence, &segment.payload) {
            self.waiting.push((sequence, segment.payload.clone()));
            return;
        }
        while let Some(index) = self.next_waiting() {
            let (sequence, payload) = self.waiting.swap_remove(index);
            self.append(sequence, &payload);
        }
    }

    /// Takes what is new of a segment; false if bytes before it are missing.
    fn append(&mut self, sequence: u32, payload: &[u8]) -> bool {
        let Some(known) = self.overlap(sequence) else { return false };
        if let Some(new) = payload.get(known..) {
            self.stream.bytes.extend_from_slice(new);
        }
        true
    }

    /// How many bytes from `sequence` on are already there; `None` if it starts beyond the end.
    fn overlap(&self, sequence: u32) -> Option<usize> {
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap around")]
        let next = self.first.wrapping_add(self.stream.bytes.len() as u32);
        let known = next.wrapping_sub(sequence);
        (known < 1 << 31).then_some(known as usize)
    }

    fn next_waiting(&self) -> Option<usize> {
        self.waiting.iter().position(|(sequence, _)| self.overlap(*sequence).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Flags, *};

    fn segment(sequence: u32, syn: bool, payload: &[u8]) -> Segment {
        Segment {
            source: "10.0.0.1:1".parse().unwrap(),
            destination: "10.0.0.2:2".parse().unwrap(),
            flags: Flags { syn, ..Flags::default() },
            sequence,
            payload: payload.to_owned(),
        }
    }

    /// Fails if a marker cut in two by segmentation, reordering or retransmission would be missed.
    #[test]
    fn bytes_come_out_in_order_whatever_the_order_of_segments() {
        let start = u32::MAX - 2;
        let at = |offset: u32, payload: &[u8]| segment(start.wrapping_add(1 + offset), false, payload);
        let segments = [
            segment(start, true, b""),
            at(3, b"def"),
            at(0, b"abc"),
            at(0, b"abcd"),
            at(8, b"ij"),
            at(6, b"gh"),
        ];
        let streams = assemble(&segments);
        assert_eq!(streams.len(), 1);
        assert_eq!(streams[0].bytes, b"abcdefghij");
    }

    #[test]
    fn a_reused_pair_of_ports_is_a_new_stream() {
        let segments = [
            segment(1, true, b""),
            segment(2, false, b"old"),
            segment(900, true, b""),
            segment(901, false, b"new"),
        ];
        let streams: Vec<_> = assemble(&segments).into_iter().map(|stream| stream.bytes).collect();
        assert_eq!(streams, [b"old", b"new"]);
    }
}
