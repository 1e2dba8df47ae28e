//! One task per connection: the streams of a connection are driven by the task that writes to it.
//!
//! Otherwise each chunk would wake two tasks, that of the stream and that of the connection.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, Stream as _},
};
use hyper::rt::Executor;

/// Where a connection puts its new streams.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
    }
}

impl Streams {
    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Drives a connection together with its streams, to its end.
    pub(crate) fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        running: &mut Running,
    ) -> impl Future<Output = C::Output> {
        poll_fn(move |cx| {
            loop {
                // First: what they send goes out with this turn of the connection.
                running.poll(cx);
                if let Poll::Ready(output) = connection.as_mut().poll(cx) {
                    return Poll::Ready(output);
                }
                let new = self.take();
                if new.is_empty() {
                    return Poll::Pending;
                }
                running.0.extend(new);
            }
        })
    }
}

/// The streams of a connection.
#[derive(Default)]
pub(crate) struct Running(FuturesUnordered<BoxFuture<'static, ()>>);

impl Running {
    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = Pin::new(&mut self.0).poll_next(cx) {}
    }
}
