//! What a row of check results means for one server. Pure: results and time are
//! parameters.
//!
//! The rules are HAProxy's (`option httpchk`, `rise`, `fall`, `http-check disable-on-404`;
//! its `src/check.c`): `fall` failures in a row make an UP server DOWN, `rise` successes in
//! a row make a DOWN server UP. A server that was never checked is taken to be up, and its
//! first result decides at once: one failure makes it DOWN, without waiting for `fall`.
//! While a server is up, one 404 under `disable_on_404` makes it NOLB and one other success
//! makes it UP again, at once, because the server itself asked for it.

use std::time::{Duration, Instant};

use crate::model::state::Health;

/// What one check said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Passed,
    /// Well, and asks for no new flows.
    Nolb,
    /// Not well.
    Failed,
    /// Nothing: this host was too short of something to ask. HAProxy's `SOCKERR`.
    Unknown,
}

/// One finished check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// What it said.
    pub verdict: Verdict,
    /// Why, for people: `connected`, `status 200`, `connection refused`.
    pub reason: String,
    /// Time from the start of the check to its verdict.
    pub duration: Duration,
}

/// A change of a server's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Health until now.
    pub from: Health,
    /// Health from now on; never equal to `from`.
    pub to: Health,
    /// Time spent in `from`.
    pub after: Duration,
}

/// The health of one server and how close it is to changing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckMachine {
    rise: u32,
    fall: u32,
    health: Health,
    /// Results in a row that speak against `health`; less than `rise` or `fall` after
    /// each observation.
    against: u32,
    /// Whether the next result decides alone.
    undecided: bool,
    since: Instant,
}

impl CheckMachine {
    /// A server never checked by this machine, of this presumed health: the first result
    /// decides. `rise` and `fall` count from 1; 0 means 1.
    #[must_use]
    pub fn undecided(health: Health, rise: u32, fall: u32, now: Instant) -> Self {
        Self { rise, fall, health, against: 0, undecided: true, since: now }
    }

    /// A server whose health is known from checks of an earlier process: `fall` or `rise`
    /// results are needed to change it, so that a restart does not make flows suffer for
    /// one lost check.
    #[must_use]
    pub fn decided(health: Health, rise: u32, fall: u32, now: Instant) -> Self {
        Self { rise, fall, health, against: 0, undecided: false, since: now }
    }

    /// What the server is now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Since when it is so.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether the server is between UP and DOWN, so that checks use the fast interval.
    #[must_use]
    pub fn in_transition(&self) -> bool {
        self.undecided || self.against > 0
    }

    /// Results in a row against the present health, and how many change it; none while
    /// nothing speaks against it.
    #[must_use]
    pub fn progress(&self) -> Option<(u32, u32)> {
        (self.against > 0).then(|| (self.against, self.needed()))
    }

    /// Takes changed check parameters. Health and counters stay; a counter that already
    /// reaches the new threshold takes effect with the next result of its kind.
    pub fn set_thresholds(&mut self, rise: u32, fall: u32) {
        (self.rise, self.fall) = (rise, fall);
    }

    /// Lets the next result decide alone, as for a server never checked. The present health
    /// stays until then.
    pub fn forget(&mut self) {
        (self.against, self.undecided) = (0, true);
    }

    /// Something other than a check found the server down: `rise` successes bring it back.
    pub fn fail(&mut self, now: Instant) {
        (self.against, self.undecided) = (0, false);
        self.change(Health::Down, now);
    }

    /// Takes one result into account.
    pub fn observe(&mut self, result: &CheckResult, now: Instant) -> Option<Transition> {
        let wanted = match result.verdict {
            Verdict::Passed => Health::Up,
            Verdict::Nolb => Health::Nolb,
            // Never checked, it may be that it can not be reached from here at all.
            Verdict::Unknown if !self.undecided => return None,
            Verdict::Failed | Verdict::Unknown => Health::Down,
        };
        let was_down = self.health == Health::Down;
        if was_down == (wanted == Health::Down) {
            (self.against, self.undecided) = (0, false);
            return self.change(wanted, now);
        }
        self.against = self.against.saturating_add(1);
        if !self.undecided && self.against < self.needed() {
            return None;
        }
        (self.against, self.undecided) = (0, false);
        self.change(wanted, now)
    }

    fn needed(&self) -> u32 {
        let needed = if self.health == Health::Down { self.rise } else { self.fall };
        needed.max(1)
    }

    fn change(&mut self, to: Health, now: Instant) -> Option<Transition> {
        if to == self.health {
            return None;
        }
        let after = now.saturating_duration_since(self.since);
        let transition = Transition { from: self.health, to, after };
        (self.health, self.since) = (to, now);
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn result(verdict: Verdict) -> CheckResult {
        CheckResult { verdict, reason: String::new(), duration: Duration::ZERO }
    }

    /// Feeds `results` (`+` passed, `-` failed, `0` NOLB, `?` unknown) and returns the health after
    /// each (`U`, `D`, `N`).
    fn run(machine: &mut CheckMachine, results: &str) -> String {
        let letter = |verdict| {
            machine.observe(&result(verdict), Instant::now());
            match machine.health() {
                Health::Up => 'U',
                Health::Down => 'D',
                Health::Nolb => 'N',
            }
        };
        results.chars().map(verdict).map(letter).collect()
    }

    fn verdict(letter: char) -> Verdict {
        match letter {
            '+' => Verdict::Passed,
            '0' => Verdict::Nolb,
            '?' => Verdict::Unknown,
            _ => Verdict::Failed,
        }
    }

    #[track_caller]
    fn check(machine: CheckMachine, results: &str, expected: &str) {
        let mut machine = machine;
        assert_eq!(run(&mut machine, results), expected, "after {results}");
    }

    fn up(rise: u32, fall: u32) -> CheckMachine {
        CheckMachine::decided(Health::Up, rise, fall, Instant::now())
    }

    fn down(rise: u32, fall: u32) -> CheckMachine {
        CheckMachine::decided(Health::Down, rise, fall, Instant::now())
    }

    fn new(health: Health) -> CheckMachine {
        CheckMachine::undecided(health, 2, 3, Instant::now())
    }

    #[test]
    fn falls_after_fall_failures_in_a_row() {
        check(up(2, 3), "---", "UUD");
        check(up(2, 3), "--+--", "UUUUU");
        check(up(2, 1), "-", "D");
        check(up(2, 0), "-", "D");
    }

    #[test]
    fn rises_after_rise_successes_in_a_row() {
        check(down(2, 3), "++", "DU");
        check(down(2, 3), "+-+-", "DDDD");
        check(down(2, 3), "+0", "DN");
    }

    #[test]
    fn the_first_check_decides() {
        check(new(Health::Up), "-+-", "DDD");
        check(new(Health::Up), "+---", "UUUD");
        check(new(Health::Down), "+", "U");
        check(new(Health::Up), "0", "N");
    }

    #[test]
    fn a_host_that_is_short_of_something_says_nothing_of_servers_it_knows() {
        check(up(2, 3), "??????", "UUUUUU");
        check(up(2, 3), "--?-", "UUUD");
        check(down(2, 3), "+?+", "DDU");
        check(new(Health::Up), "?", "D");
        check(new(Health::Up), "+???", "UUUU");
    }

    #[test]
    fn a_server_that_asks_for_no_new_flows_gets_none_at_once() {
        check(up(2, 3), "0+0", "NUN");
        check(up(2, 3), "0---", "NNND");
    }

    #[test]
    fn who_is_down_by_another_word_rises_as_usual() {
        for machine in [up(2, 3), new(Health::Up), down(2, 3)] {
            let mut machine = machine;
            machine.fail(Instant::now());
            check(machine, "+++", "DUU");
        }
    }

    #[test]
    fn transition_tells_how_long_the_old_health_lasted() {
        let start = Instant::now();
        let mut machine = CheckMachine::decided(Health::Up, 1, 1, start);
        let now = start + Duration::from_secs(7);
        let expected =
            Transition { from: Health::Up, to: Health::Down, after: Duration::from_secs(7) };
        assert_eq!(machine.observe(&result(Verdict::Failed), now), Some(expected));
        assert_eq!(machine.since(), now);
    }

    #[test]
    fn changed_thresholds_keep_health_and_counters() {
        let mut machine = up(2, 5);
        assert_eq!(run(&mut machine, "--"), "UU");
        machine.set_thresholds(2, 3);
        assert_eq!((machine.health(), machine.progress()), (Health::Up, Some((2, 3))));
        assert_eq!(run(&mut machine, "-"), "D");

        let mut machine = up(2, 5);
        assert_eq!(run(&mut machine, "---"), "UUU");
        machine.set_thresholds(2, 1);
        assert_eq!(machine.health(), Health::Up, "a reload alone takes no server down");
        assert_eq!(run(&mut machine, "+-"), "UD");
    }

    proptest! {
        /// Against a reference that looks at the whole history.
        #[test]
        fn health_follows_from_the_last_results(
            rise in 1_u32..6,
            fall in 1_u32..6,
            history in vec(prop_oneof![Just('+'), Just('-'), Just('0')], 0..60),
        ) {
            let mut machine = up(rise, fall);
            let mut expected = Health::Up;
            for end in 1..=history.len() {
                let transition = machine.observe(&result(verdict(history[end - 1])), Instant::now());
                let same = |failed: bool| {
                    history[..end].iter().rev().take_while(|&&c| (c == '-') == failed).count()
                };
                let before = expected;
                let lively = if history[end - 1] == '0' { Health::Nolb } else { Health::Up };
                if expected != Health::Down {
                    if same(true) >= fall as usize { expected = Health::Down }
                    else if same(true) == 0 { expected = lively }
                } else if same(false) >= rise as usize { expected = lively }
                prop_assert_eq!(machine.health(), expected);
                prop_assert_eq!(
                    transition.map(|t| (t.from, t.to)),
                    (before != expected).then_some((before, expected))
                );
                prop_assert!(machine.against < machine.needed());
            }
        }

        #[test]
        fn fast_interval_is_used_exactly_while_results_disagree_with_health(
            history in vec(prop_oneof![Just('+'), Just('-')], 1..60),
        ) {
            let mut machine = up(3, 3);
            for letter in history {
                machine.observe(&result(verdict(letter)), Instant::now());
                let agrees = (letter == '-') == (machine.health() == Health::Down);
                prop_assert_eq!(machine.in_transition(), !agrees);
            }
        }
    }
}
