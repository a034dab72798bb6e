//! The flood: malformed messages beside the load, from one tenant at a steady rate, over a connection of their own.
//! Never here: what is malformed about them, or what has become of them; the books have that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::beat::Beat;
use super::bodies::{self, ACCOUNT, Header};
use super::books::Books;
use super::producer::{Parcel, Producer};
use super::rig::micros;
use crate::model::time::{Stopwatch, system_now};

/// How long behind its end a flood may catch up: many times the timer's millisecond, little beside the shortest phase.
const GRACE_US: u64 = 100_000;

pub struct Flood {
    pub producer: Producer,
    pub books: Arc<Mutex<Books>>,
    pub clock: Stopwatch,
    /// Of the tenant that sends them.
    pub organization: u64,
}

/// What of a flood was taken.
#[derive(Debug, Clone, Copy)]
pub struct Flooded {
    /// Confirmed, until the last of them was.
    pub sent_per_s: f64,
    /// Not sent: the broker did not take them in time.
    pub unsent: u64,
}

impl Flood {
    /// Open loop: what the broker holds up is sent late, and no longer when the time is over.
    pub async fn run(mut self, per_s: f64, seconds: f64) -> anyhow::Result<Flooded> {
        let began_us = micros(self.clock);
        let until_us = began_us + (seconds * 1e6) as u64 + GRACE_US;
        let mut beat = Beat::new(began_us, per_s, seconds);
        let mut sent = 0;
        while let Some(next_us) = beat.next_us() {
            let now_us = micros(self.clock);
            if now_us > until_us {
                break;
            }
            if next_us > now_us {
                self.producer.pause(Duration::from_micros((next_us - now_us).max(1_000))).await?;
                continue;
            }
            let turn = beat.due(now_us).len();
            sent += turn;
            let parcels = self.parcels(turn);
            self.producer.send(parcels.into_iter()).await?;
        }
        self.producer.confirm_all().await?;
        let took_s = (micros(self.clock) - began_us) as f64 / 1e6;
        Ok(Flooded { sent_per_s: sent as f64 / took_s.max(seconds), unsent: beat.left() })
    }

    /// All by one key, that of a decision: they are to wait where decisions wait.
    fn parcels(&self, turn: usize) -> Vec<Parcel> {
        let tenantid = format!("{ACCOUNT}.{}", self.organization);
        let time = system_now();
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let numbered = (0..turn).map(|_| books.note_malformed());
        numbered
            .map(|(number, id)| Parcel {
                routing_key: format!("remediations.approved.{tenantid}"),
                tenantid: tenantid.clone(),
                body: bodies::malformed(&Header { id: &id, organization: self.organization, time }, number),
            })
            .collect()
    }
}
