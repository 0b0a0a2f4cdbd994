//! Server-sent events (WHATWG): the events of a stream of bytes.

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// Most bytes of one line: a job's event is far smaller.
const MAX_LINE: usize = 4 << 20;

/// Reads events from pieces of any size.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
}

impl Parser {
    /// The events that end in this piece. An event without data is none.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in piece {
            match byte {
                b'\n' => events.extend(self.end_of_line()),
                b'\r' => (),
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => (),
            }
        }
        events
    }

    fn end_of_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            return (!data.is_empty()).then_some(Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" if self.data.is_empty() => value.clone_into(&mut self.data),
            "data" => {
                self.data.push('\n');
                self.data += value;
            }
            _ => (),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_wherever_the_pieces_end() {
        let text = b": comment\r\n\r\nevent: status\nid: 4\ndata: {\"a\":\ndata: 1}\n\nevent: deleted\ndata:x\n\nevent: half\n";
        let expected = [("status", "{\"a\":\n1}"), ("deleted", "x")]
            .map(|(name, data)| Event { name: name.to_owned(), data: data.to_owned() });
        for size in [1, 2, 7, text.len()] {
            let mut parser = Parser::default();
            let events: Vec<Event> = text.chunks(size).flat_map(|piece| parser.push(piece)).collect();
            assert_eq!(events, expected, "{size}");
        }
    }
}
