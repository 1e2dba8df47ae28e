//! A request's body whose first message, the hello, may not be large: whoever sends it is unknown yet.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::{Status, codegen::StdError};

/// A gRPC message begins with a byte of flags and its length in four.
const PREFIX: usize = 5;

/// Fails, before it is read, when the first message is larger than the limit.
pub(crate) struct HelloBody {
    inner: Incoming,
    /// Bytes of the first prefix; all are there: it was checked.
    prefix: Vec<u8>,
    limit: usize,
}

impl HelloBody {
    pub(crate) fn new(inner: Incoming, limit: usize) -> Self {
        Self { inner, prefix: Vec::with_capacity(PREFIX), limit }
    }
}

/// Takes what `prefix` still lacks. The length of the message, once it is known, when it is too large.
fn too_large(prefix: &mut Vec<u8>, data: &Bytes, limit: usize) -> Option<usize> {
    if prefix.len() == PREFIX {
        return None;
    }
    let lacking = PREFIX - prefix.len();
    prefix.extend_from_slice(&data[..lacking.min(data.len())]);
    if prefix.len() < PREFIX {
        return None;
    }
    let length = (&prefix[1..]).get_u32() as usize;
    (length > limit).then_some(length)
}

impl Body for HelloBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let Some(data) = data
            && let Some(length) = too_large(&mut this.prefix, data, this.limit)
        {
            let limit = this.limit;
            let text = format!("the hello has {length} bytes, and may have {limit}");
            return Poll::Ready(Some(Err(Status::out_of_range(text).into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_found_however_the_prefix_is_cut() {
        let message = [0, 0, 0, 1, 1, 7, 7];
        for cut in 0..=message.len() {
            let mut prefix = Vec::new();
            let (a, b) = message.split_at(cut);
            let found = [a, b].map(|part| too_large(&mut prefix, &part.to_vec().into(), 256));
            assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), [257], "cut at {cut}");
        }
    }

    #[test]
    fn only_the_first_message_is_looked_at_and_at_the_limit_it_passes() {
        let mut prefix = Vec::new();
        assert_eq!(too_large(&mut prefix, &vec![0, 0, 0, 1, 0].into(), 256), None);
        assert_eq!(too_large(&mut prefix, &vec![0, 255, 255, 255, 255].into(), 256), None);
    }
}
