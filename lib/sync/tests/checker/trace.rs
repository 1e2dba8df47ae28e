//! The way to a state, in words.

use std::fmt::Write as _;

use crate::search::{Action, Checker, State};

impl Checker<'_> {
    /// The way to a state, in words.
    pub(crate) fn trace(&mut self, actions: &[Action]) -> String {
        let Ok(mut state) = self.start() else { return String::new() };
        let mut text = String::new();
        let mut next = Vec::new();
        for (number, action) in actions.iter().enumerate() {
            let words = self.words(&state, *action);
            let _ = writeln!(text, "{:3}. {words}", number + 1);
            self.next(&state, &mut next);
            let taken = next.iter().find(|(other, _)| other == action);
            let Some((_, Ok(taken))) = taken else { break };
            self.effect(&state, taken, &mut text);
            state = *taken;
        }
        text
    }

    fn words(&self, state: &State, action: Action) -> String {
        let server =
            |replica: u8| self.replicas.get(state.replicas[usize::from(replica)]).name().to_owned();
        let agent = |agent: u8| self.agents.get(state.agents[usize::from(agent)]).name();
        match action {
            Action::Read { replica, stream, count } => {
                let here = self.replicas.get(state.replicas[usize::from(replica)]);
                let log = &self.logs[usize::from(here.branch)];
                let stream = usize::from(stream);
                let news =
                    log.events().filter(|(v, s, _)| *s == stream && *v > here.reached[stream]);
                let news: Vec<_> = news.take(count.into()).map(|(v, _, h)| (v, h)).collect();
                format!("server {} publishes {news:?}", here.name())
            }
            Action::Bookmark { replica } => {
                format!("server {} hears that nothing else has happened", server(replica))
            }
            Action::Restart { replica, at } => {
                format!(
                    "server {} crashes, and starts with a list at version {at}",
                    server(replica)
                )
            }
            Action::Restore { branch } => {
                let version = self.scope.backups[usize::from(branch) - 1];
                format!("the store is restored to version {version}")
            }
            Action::Notice { replica } => {
                format!("server {} sees that its store went back, and lists it", server(replica))
            }
            Action::Connect { agent: who, replica, rollback } => {
                let how = if rollback { ", ready to go back" } else { "" };
                format!("agent {} connects to {}{how}", agent(who), server(replica))
            }
            Action::Published { agent: who, .. } => format!("agent {} is thought of", agent(who)),
            Action::Wake { agent: who } => format!("agent {}'s session wakes", agent(who)),
            Action::Deliver { agent: who } => {
                let here = self.agents.get(state.agents[usize::from(who)]);
                let packet = here.in_flight().next().unwrap_or_default();
                format!("agent {} receives {packet}", here.name())
            }
            Action::Apply { agent: who } => format!("agent {}'s kernel follows", agent(who)),
            Action::Save { agent: who } => format!("agent {} writes its file", agent(who)),
            Action::Cut { agent: who } => format!("agent {}'s connection breaks", agent(who)),
            Action::Crash { agent: who, from_file } => {
                let with = if from_file { "its file" } else { "nothing" };
                format!("agent {} crashes, and starts with {with}", agent(who))
            }
            Action::Corrupt { agent: who } => {
                format!("agent {}'s next frame is changed on its way", agent(who))
            }
            Action::Hear { agent: who } => {
                format!("the server hears what agent {} asks for", agent(who))
            }
            Action::SendAway { agent: who } => format!("agent {} is sent away", agent(who)),
        }
    }

    fn effect(&self, before: &State, after: &State, text: &mut String) {
        for index in 0..self.scope.replicas {
            if before.replicas[index] != after.replicas[index] {
                let replica = self.replicas.get(after.replicas[index]);
                let ((vector, progress), now) = (replica.versions(), replica.snapshot());
                let of = |v: &bulrush_sync::Vector| v.iter().map(|(_, v)| v).collect::<Vec<_>>();
                let (n, vector, progress) = (now.publication, of(vector), of(progress));
                let _ =
                    writeln!(text, "       {}: n={n} V={vector:?} P={progress:?}", replica.name());
            }
        }
        for index in 0..self.scope.agents {
            if before.agents[index] != after.agents[index] {
                let (old, new) =
                    (self.agents.get(before.agents[index]), self.agents.get(after.agents[index]));
                if old.describe() != new.describe() {
                    let _ = writeln!(text, "       {}: {}", new.name(), new.describe());
                }
                let known = old.in_flight().count();
                for packet in new.in_flight().skip(known) {
                    let _ = writeln!(text, "       to {}: {packet}", new.name());
                }
                if new.link.as_ref().is_some_and(|link| link.behind) {
                    let _ =
                        writeln!(text, "       {} is told that the server is behind", new.name());
                }
            }
        }
    }
}
