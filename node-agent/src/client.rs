//! The agent's side of a stream to typha: connects, and turns messages into events of the session.
//!
//! Every client of a server uses it: the agent, `bulrush watch`, and simulated agents.

use std::time::Duration;

use proto::v1::{AgentHello, AgentMessage, agent_message, typha_client::TyphaClient};
use sync::{ClientError, ClientSession, Event};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// How long a server may take to answer a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that says nothing for so many heartbeats is gone.
const MISSED_HEARTBEATS: u32 = 3;

/// Why there is no stream, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The address is none.
    #[error("{address:?} is no address of a server (example: 10.0.0.1:5473): {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers.
    #[error("typha at {address} can't be reached: {reason}; is it running, and is that its port?")]
    Unreachable {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The stream broke, or the server refused.
    #[error("typha at {address} ended the stream: {reason}")]
    Ended {
        /// Where.
        address: String,
        /// The server's or the transport's word.
        reason: String,
    },
    /// The server said nothing for too long.
    #[error("typha at {address} has said nothing for {seconds} s")]
    Silent {
        /// Where.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// What came is not of the protocol.
    #[error("typha at {address} broke the protocol: {error}")]
    Protocol {
        /// Where.
        address: String,
        /// What.
        error: ClientError,
    },
}

/// An open stream.
pub struct Connection {
    address: String,
    inbound: Streaming<proto::v1::ServerMessage>,
    outbound: mpsc::Sender<AgentMessage>,
    silence: Duration,
}

impl Connection {
    /// Connects to `address` (`HOST:PORT`, or a URL) and says hello.
    pub async fn open(address: &str, hello: AgentHello) -> Result<Self, StreamError> {
        let unreachable =
            |reason: String| StreamError::Unreachable { address: address.to_owned(), reason };
        let url =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(url).map_err(|error| StreamError::Address {
            address: address.to_owned(),
            reason: error.to_string(),
        })?;
        let channel: Channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1024 * 1024)
            .connect()
            .await
            .map_err(|error| unreachable(sources(&error)))?;
        let (outbound, messages) = mpsc::channel(16);
        let hello = AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
        // The channel is new and has room.
        let _ = outbound.try_send(hello);
        let call = TyphaClient::new(channel).sync(ReceiverStream::new(messages)).await;
        let inbound = call.map_err(|status| unreachable(status.message().to_owned()))?.into_inner();
        // Until the hello says how often heartbeats come.
        let silence = CONNECT_TIMEOUT;
        Ok(Self { address: address.to_owned(), inbound, outbound, silence })
    }

    /// The server's address, as it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next message, and gives it to the session. Dropping the future loses nothing.
    pub async fn next(&mut self, session: &mut ClientSession) -> Result<Event, StreamError> {
        let message = timeout(self.silence, self.inbound.message()).await.map_err(|_| {
            let seconds = self.silence.as_secs();
            StreamError::Silent { address: self.address.clone(), seconds }
        })?;
        let ended = |reason: &str| StreamError::Ended {
            address: self.address.clone(),
            reason: reason.into(),
        };
        let message = message
            .map_err(|status| ended(status.message()))?
            .ok_or_else(|| ended("it closed the stream"))?;
        let event = session
            .receive(message)
            .map_err(|error| StreamError::Protocol { address: self.address.clone(), error })?;
        if let Event::Hello(hello) = &event {
            let heartbeat = u64::from(hello.heartbeat_seconds.max(1));
            self.silence = Duration::from_secs(heartbeat) * MISSED_HEARTBEATS;
        }
        Ok(event)
    }

    /// Sends a message. A server that has gone is noticed by [`Connection::next`].
    pub async fn send(&self, message: AgentMessage) {
        let _ = self.outbound.send(message).await;
    }
}

/// An error with what caused it: transports hide the reason below "transport error".
fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
