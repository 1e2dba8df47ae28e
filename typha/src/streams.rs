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

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    use futures::FutureExt as _;
    use tokio::{
        sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        time::timeout,
    };

    use super::*;

    /// Hands on what it gets, to the end of it.
    async fn hand_on(mut from: UnboundedReceiver<u32>, to: UnboundedSender<u32>) {
        while let Some(number) = from.recv().await {
            let _ = to.send(number);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whatever_wakes_a_part_is_seen() {
        let (first, to_stream) = unbounded_channel();
        let (stream, to_connection) = unbounded_channel();
        let (connection, to_other) = unbounded_channel();
        let (other, mut last) = unbounded_channel();
        let streams = Streams::default();
        streams.execute(hand_on(to_stream, stream));
        streams.execute(hand_on(to_other, other));
        let mut running = Running::new(&streams);
        let task = tokio::spawn(async move {
            let connection = pin!(hand_on(to_connection, connection));
            running.drive(connection).await;
        });
        // From outside to a stream, to the connection, to the other stream, and out: nobody else wakes any of them.
        for number in 0..50_000 {
            first.send(number).unwrap();
            let seen = timeout(Duration::from_secs(30), last.recv()).await;
            assert_eq!(seen, Ok(Some(number)));
        }
        drop(first);
        timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_part_that_nothing_has_happened_to_is_not_looked_at() {
        let streams = Streams::default();
        let (to, from) = unbounded_channel();
        let (out, mut seen) = unbounded_channel();
        streams.execute(hand_on(from, out));
        let looks = AtomicUsize::new(0);
        let mut connection = pin!(poll_fn(|_| {
            looks.fetch_add(1, Relaxed);
            Poll::<()>::Pending
        }));
        let mut running = Running::new(&streams);
        let mut driven = pin!(running.drive(connection.as_mut()));
        assert_eq!(driven.as_mut().now_or_never(), None);
        assert_eq!(looks.load(Relaxed), 1);
        for number in 0..3 {
            to.send(number).unwrap();
            assert_eq!(driven.as_mut().now_or_never(), None);
            assert_eq!(seen.try_recv(), Ok(number));
        }
        assert_eq!(looks.load(Relaxed), 1);
    }

    #[test]
    fn a_stream_that_has_not_begun_goes_with_its_connection() {
        let streams = Streams::default();
        let running = Running::new(&streams);
        let alive = Arc::downgrade(&streams.0);
        let inside = streams.clone();
        streams.execute(async move {
            let _inside = inside;
            pending::<()>().await;
        });
        drop((running, streams));
        assert!(alive.upgrade().is_none());
    }
}
