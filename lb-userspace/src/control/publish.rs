//! Telling the operator the state of servers, in the log and in every view: what the maps
//! have, once they have it. Who reads `DOWN` can rely on no packet going there any more.
//!
//! A state that is known and that the maps could not take yet is shown as being applied.

use super::Control;
use crate::{
    control::book::{Record, ServerBook},
    model::state::{ServerId, ServerState},
};

impl Control {
    /// The maps have what is known: says what became of each server.
    pub(super) fn publish(&mut self) {
        if self.told == self.book {
            return;
        }
        for (id, record) in changed(&self.book, &self.told) {
            say(id, record);
        }
        self.told.clone_from(&self.book);
    }

    /// What the operator would have been told if the maps had taken it: the end of an error
    /// message.
    pub(super) fn waiting(&self) -> String {
        let states = changed(&self.book, &self.told).map(|((backend, server), record)| {
            format!("; {backend}/{server} is not {} there yet", record.state())
        });
        states.collect()
    }
}

/// The servers that are known to be in another state than was told.
fn changed<'a>(
    book: &'a ServerBook,
    told: &'a ServerBook,
) -> impl Iterator<Item = (&'a ServerId, &'a Record)> {
    book.iter().filter(move |(id, record)| {
        let told = book.compare(told, id).and_then(|(_, told)| told);
        told.is_some_and(|told| told.state() != record.state())
    })
}

fn say((backend, server): &ServerId, record: &Record) {
    let (state, reason) = (record.state(), &record.status.reason);
    match state {
        ServerState::Down => tracing::warn!("server {backend}/{server} is {state}: {reason}"),
        _ => tracing::info!("server {backend}/{server} is {state}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{
        fixture::{pg, snapshot},
        state::Health,
    };

    #[test]
    fn only_servers_that_were_told_of_in_another_state_are_told_of() {
        let now = SystemTime::UNIX_EPOCH;
        let servers = [("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")];
        let told = ServerBook::new(&snapshot(&servers), Vec::new(), now);
        let mut book = told.clone();
        let names = |book: &ServerBook| -> Vec<String> {
            changed(book, &told).map(|((_, name), _)| name.to_string()).collect()
        };
        assert!(names(&book).is_empty());
        book.note_health(&pg("pg1"), Health::Up, "connected".into(), now);
        book.note_health(&pg("pg2"), Health::Down, "connection refused".into(), now);
        assert_eq!(names(&book), ["pg2"]);
        // New servers, and those that became other servers, were never told of.
        let servers = [("pg2", "10.0.9.9:5432"), ("pg3", "10.0.1.22:5432")];
        book.configure(&snapshot(&servers), now);
        book.note_health(&pg("pg3"), Health::Down, "connection refused".into(), now);
        book.note_health(&pg("pg2"), Health::Down, "connection refused".into(), now);
        assert!(names(&book).is_empty());
    }
}
