//! The format of pprof (perftools.profiles.Profile), as far as it is needed: protocol buffers, not compressed.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// One function on a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) line: u32,
}

/// Functions, places and texts are written once and referred to by number.
pub(super) struct Encoder {
    samples: Message,
    texts: HashMap<String, u64>,
    text_table: Message,
    places: HashMap<Frame, u64>,
    place_table: Message,
    functions: HashMap<(u64, u64), u64>,
    function_table: Message,
    head: Message,
}

/// Field numbers of a profile.
mod field {
    pub(super) const SAMPLE_TYPE: u64 = 1;
    pub(super) const SAMPLE: u64 = 2;
    pub(super) const LOCATION: u64 = 4;
    pub(super) const FUNCTION: u64 = 5;
    pub(super) const TEXT: u64 = 6;
    pub(super) const TIME: u64 = 9;
    pub(super) const DURATION: u64 = 10;
    pub(super) const PERIOD_TYPE: u64 = 11;
    pub(super) const PERIOD: u64 = 12;
}

impl Encoder {
    /// Each value of a sample has a type and a unit, and so has the period: how much lies between two samples.
    pub(super) fn new(values: &[(&str, &str)], period_type: (&str, &str), period: i64) -> Self {
        let mut own = Self {
            samples: Message::default(),
            texts: HashMap::new(),
            text_table: Message::default(),
            places: HashMap::new(),
            place_table: Message::default(),
            functions: HashMap::new(),
            function_table: Message::default(),
            head: Message::default(),
        };
        // The first text must be the empty one.
        own.text("");
        for &value in values {
            let value_type = own.value_type(value);
            own.head.message(field::SAMPLE_TYPE, &value_type);
        }
        let period_type = own.value_type(period_type);
        own.head.message(field::PERIOD_TYPE, &period_type);
        own.head.number(field::PERIOD, period.unsigned_abs());
        own
    }

    /// The innermost frame first.
    pub(super) fn sample(&mut self, stack: &[Frame], values: &[i64], thread: Option<&str>) {
        let mut sample = Message::default();
        let places: Vec<u64> = stack.iter().map(|frame| self.place(frame)).collect();
        sample.numbers(1, &places);
        let values: Vec<u64> = values.iter().map(|value| value.cast_unsigned()).collect();
        sample.numbers(2, &values);
        if let Some(thread) = thread {
            let mut label = Message::default();
            label.number(1, self.text("thread"));
            label.number(2, self.text(thread));
            sample.message(3, &label);
        }
        self.samples.message(field::SAMPLE, &sample);
    }

    pub(super) fn finish(mut self, started: SystemTime, duration: Duration) -> Vec<u8> {
        let nanoseconds = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let since_epoch = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.head.number(field::TIME, nanoseconds(since_epoch));
        self.head.number(field::DURATION, nanoseconds(duration));
        [self.head, self.samples, self.place_table, self.function_table, self.text_table]
            .into_iter()
            .flat_map(|part| part.0)
            .collect()
    }

    fn value_type(&mut self, (name, unit): (&str, &str)) -> Message {
        let mut value_type = Message::default();
        value_type.number(1, self.text(name));
        value_type.number(2, self.text(unit));
        value_type
    }

    fn text(&mut self, text: &str) -> u64 {
        if let Some(&number) = self.texts.get(text) {
            return number;
        }
        let number = self.texts.len() as u64;
        self.text_table.bytes(field::TEXT, text.as_bytes());
        self.texts.insert(text.to_owned(), number);
        number
    }

    /// Numbers of functions and places begin with 1: 0 is none.
    fn place(&mut self, frame: &Frame) -> u64 {
        if let Some(&number) = self.places.get(frame) {
            return number;
        }
        let function = self.function(frame);
        let number = self.places.len() as u64 + 1;
        let (mut line, mut place) = (Message::default(), Message::default());
        line.number(1, function);
        line.number(2, frame.line.into());
        place.number(1, number);
        place.message(4, &line);
        self.place_table.message(field::LOCATION, &place);
        self.places.insert(frame.clone(), number);
        number
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let (name, file) = (self.text(&frame.function), self.text(&frame.file));
        if let Some(&number) = self.functions.get(&(name, file)) {
            return number;
        }
        let number = self.functions.len() as u64 + 1;
        let mut function = Message::default();
        function.number(1, number);
        function.number(2, name);
        function.number(4, file);
        self.function_table.message(field::FUNCTION, &function);
        self.functions.insert((name, file), number);
        number
    }
}

/// Protocol buffers' wire format: a tag, then a number or a length and as many bytes.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// Packed.
    fn numbers(&mut self, field: u64, values: &[u64]) {
        let mut packed = Self::default();
        values.iter().for_each(|&value| packed.varint(value));
        self.message(field, &packed);
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}
