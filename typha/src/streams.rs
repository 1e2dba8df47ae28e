//! One task per connection: the streams of a connection are driven by the task that writes to it.
//!
//! Otherwise each chunk would wake two tasks, that of the stream and that of the connection. The two parts of the
//! task have wakers of their own: a part that nothing has happened to isn't looked at, and what one does for the
//! other needs no further turn of the task.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::{future::BoxFuture, task::AtomicWaker};
use hyper::rt::Executor;

/// The streams have something to do.
const STREAMS: u8 = 1;
/// The connection has.
const CONNECTION: u8 = 2;
/// The task looks at both anyway.
const AT_WORK: u8 = 4;
/// How often the parts have their turns before the task lets others work.
const TURNS: usize = 8;

type Stream = BoxFuture<'static, ()>;

/// Where a connection puts its new streams.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Parts>);

#[derive(Default)]
struct Parts {
    new: Mutex<Vec<Stream>>,
    /// Which parts have something to do.
    woken: AtomicU8,
    task: AtomicWaker,
}

impl Parts {
    fn wake(&self, part: u8) {
        // Otherwise the task looks again before it rests, or has been woken already.
        if self.woken.fetch_or(part, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }

    fn take(&self) -> Vec<Stream> {
        std::mem::take(&mut self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a part has something to do; it is about to do it.
    fn begins(&self, part: u8) -> bool {
        let woken = self.woken.load(Ordering::Acquire) & part != 0;
        woken && self.woken.fetch_and(!part, Ordering::AcqRel) & part != 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that hasn't begun knows where new ones are put, which would keep both for ever.
        drop(self.parts.take());
    }
}

/// Wakes one part.
struct Part(Arc<Parts>, u8);

impl Wake for Part {
    fn wake(self: Arc<Self>) {
        self.0.wake(self.1);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake(self.1);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.new.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
        self.0.wake(STREAMS);
    }
}

/// The streams of a connection that have begun.
pub(crate) struct Running {
    parts: Arc<Parts>,
    streams: Vec<Stream>,
    waker: Waker,
    connection: Waker,
}

impl Running {
    pub(crate) fn new(streams: &Streams) -> Self {
        let waker = |part| Waker::from(Arc::new(Part(streams.0.clone(), part)));
        Self {
            parts: streams.0.clone(),
            streams: Vec::new(),
            waker: waker(STREAMS),
            connection: waker(CONNECTION),
        }
    }

    /// Drives a connection together with its streams, to its end.
    pub(crate) fn drive<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
    ) -> impl Future<Output = C::Output> {
        // What was done to it from outside isn't known.
        self.parts.woken.fetch_or(CONNECTION, Ordering::AcqRel);
        poll_fn(move |cx| {
            let parts = &*self.parts;
            parts.task.register(cx.waker());
            parts.woken.fetch_or(AT_WORK, Ordering::AcqRel);
            for _ in 0..TURNS {
                // First: what they send goes out with this turn of the connection.
                if parts.begins(STREAMS) {
                    self.streams.extend(parts.take());
                    let mut context = Context::from_waker(&self.waker);
                    self.streams
                        .retain_mut(|stream| stream.as_mut().poll(&mut context).is_pending());
                }
                if parts.begins(CONNECTION) {
                    let mut context = Context::from_waker(&self.connection);
                    if let Poll::Ready(output) = connection.as_mut().poll(&mut context) {
                        return Poll::Ready(output);
                    }
                }
                let rests = (Ordering::AcqRel, Ordering::Acquire);
                if parts.woken.compare_exchange(AT_WORK, 0, rests.0, rests.1).is_ok() {
                    return Poll::Pending;
                }
            }
            parts.woken.fetch_and(!AT_WORK, Ordering::AcqRel);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }
}
