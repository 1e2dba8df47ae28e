//! Simulated agents, churn and a report of what a server makes of them.
//!
//! ```text
//!   Churn --events--> writer --> store --> typha --> Agent: Injector, Judge, the agents' own session
//!     |                 |                                      |
//!     |                 v                                      v
//!     +--- effects --> Ledger (version of each write) ---> Delivery --> Score --> Report
//! ```
//!
//! Who needs a change, and what it makes of what an agent holds, is known by construction of the
//! profile: nothing of the engine that computes views is asked.

mod agent;
mod checked;
mod children;
mod churn;
mod cli;
mod delivery;
mod drain;
mod fleet;
mod follower;
mod frames;
mod html;
mod inject;
mod judge;
mod keeper;
mod memory;
mod process;
mod progress;
mod ratios;
mod replicas;
mod report;
mod run;
mod sample;
mod score;
mod series;
mod sockets;
mod worker;
mod world;
mod writer;

pub use cli::Args;
