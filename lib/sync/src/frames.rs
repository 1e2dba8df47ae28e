//! What brings an agent to a publication, message by message.

use crate::topic::Outgoing;

/// Messages in their order. Of a topic that goes whole only the next part is kept, and those after it come from there:
/// a long list of parts for each of many agents would be larger than what they are sent.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// A part stands for itself and those after it. What was taken from the front stays until all was.
    messages: Vec<Outgoing>,
    taken: usize,
}

impl Frames {
    /// Nothing, with room for so many.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { messages: Vec::with_capacity(count), taken: 0 }
    }

    /// Adds a message; a part of a topic, and those after it.
    pub fn push(&mut self, message: Outgoing) {
        self.messages.push(message);
    }

    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.taken == self.messages.len()
    }

    /// What is left. A part stands for itself and those after it.
    pub fn left(&self) -> &[Outgoing] {
        self.messages.get(self.taken..).unwrap_or_default()
    }
}

impl Extend<Outgoing> for Frames {
    fn extend<T: IntoIterator<Item = Outgoing>>(&mut self, messages: T) {
        self.messages.extend(messages);
    }
}

impl Iterator for Frames {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        let front = self.messages.get_mut(self.taken)?;
        if let Outgoing::Part(whole, part) = front
            && *part + 1 < whole.part_count()
        {
            *part += 1;
            return Some(Outgoing::Part(whole.clone(), *part - 1));
        }
        self.taken += 1;
        let message = front.clone();
        if self.is_empty() {
            // A first sync is many messages, and its room isn't needed after it.
            *self = Self::default();
        }
        Some(message)
    }
}
