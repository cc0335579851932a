//! What waits for its turn, where those whom it is for take turns.
//!
//! A client that asks for a lot holds up itself: in each round every client that waits has one
//! turn, and whoever asks for the first time goes before those who have asked for more than that.
//! What is for one client keeps its order. Pure: what waits is anything, and who takes it decides
//! when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;

/// Whom something is done for: a connection.
///
/// Not an address, which may be that of a proxy with thousands behind it, who would share the turns
/// of one. Who opens many connections has as many turns, and may open so many and no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client(u64);

impl Client {
    /// What is done for nobody who is connected, or for several.
    pub const NOBODY: Self = Self(0);

    /// Somebody who has connected just now.
    pub fn connected() -> Self {
        static CONNECTED: AtomicU64 = AtomicU64::new(0);
        Self(CONNECTED.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A queue whose clients take turns. It keeps nothing of a client of whom nothing waits.
#[derive(Debug)]
pub struct Turns<T> {
    waiting: BTreeMap<Turn, (Client, T)>,
    clients: HashMap<Client, Share>,
    /// The round of what was taken last.
    round: u64,
    /// How much has come.
    came: u64,
}

/// When it is something's turn, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    round: u64,
    /// Whether something of the same client waited when it came.
    follows: bool,
    came: u64,
}

/// What waits of one client: one turn in each of as many rounds, one after the other.
#[derive(Clone, Copy, Debug)]
struct Share {
    waiting: usize,
    last_round: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), clients: HashMap::new(), round: 0, came: 0 }
    }
}

impl<T> Turns<T> {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn push(&mut self, client: Client, item: T) {
        let next_round = self.round + 1;
        let share = self.clients.entry(client).or_insert(Share { waiting: 0, last_round: 0 });
        let follows = share.waiting > 0;
        share.waiting += 1;
        share.last_round = if follows { share.last_round + 1 } else { next_round };
        let turn = Turn { round: share.last_round, follows, came: self.came };
        self.came += 1;
        self.waiting.insert(turn, (client, item));
    }

    /// What is next.
    pub fn front(&self) -> Option<&T> {
        self.waiting.first_key_value().map(|(_, (_, item))| item)
    }

    /// All that waits, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().map(|(_, item)| item)
    }

    /// Take what is next.
    pub fn pop(&mut self) -> Option<T> {
        let (turn, (client, item)) = self.waiting.pop_first()?;
        self.round = turn.round;
        self.left(client, 0);
        Some(item)
    }

    /// Whether of somebody more waits than would of `client` with one more, so that there is
    /// something to [`Turns::give_up_for`] it.
    pub fn has_greedier(&self, client: Client) -> bool {
        // Whoever has a turn in the last round has one in each before.
        let most = self.waiting.last_key_value().map(|(_, (most, _))| *most);
        most.is_some_and(|most| {
            most != Client::NOBODY && self.waiting_of(most) > self.waiting_of(client) + 1
        })
    }

    /// Take back what came last of the client of whom most waits, where that is greedier.
    pub fn give_up_for(&mut self, client: Client) -> Option<T> {
        if !self.has_greedier(client) {
            return None;
        }
        let (_, (most, item)) = self.waiting.pop_last()?;
        self.left(most, 1);
        Some(item)
    }

    fn waiting_of(&self, client: Client) -> usize {
        self.clients.get(&client).map_or(0, |share| share.waiting)
    }

    /// How much goes before what would come now for a client, at most.
    pub fn ahead_of(&self, client: Client) -> usize {
        let own = self.waiting_of(client);
        let others = self.clients.len() - usize::from(own > 0);
        self.len().min(own + others * (own + 1))
    }

    /// One less of a client waits, which had its turn in so many rounds of its last ones.
    fn left(&mut self, client: Client, rounds: u64) {
        if let Some(share) = self.clients.get_mut(&client) {
            share.waiting -= 1;
            share.last_round -= rounds;
            if share.waiting == 0 {
                self.clients.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A queue of these, each for the client by the name that it begins with.
    fn queued(items: &[&'static str]) -> Turns<&'static str> {
        let mut turns = Turns::default();
        for item in items {
            turns.push(client(item), *item);
        }
        turns
    }

    fn client(item: &str) -> Client {
        Client(u64::from(item.as_bytes()[0]))
    }

    fn order(turns: &mut Turns<&'static str>) -> String {
        std::iter::from_fn(|| turns.pop()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn clients_take_turns_and_each_keeps_its_order() {
        for (case, items, expected) in [
            ("one client", vec!["a1", "a2", "a3"], "a1 a2 a3"),
            ("polite ones", vec!["a1", "b1", "c1"], "a1 b1 c1"),
            ("a greedy one", vec!["a1", "a2", "a3", "a4", "b1", "c1"], "a1 b1 c1 a2 a3 a4"),
            ("two that are", vec!["a1", "a2", "a3", "b1", "b2", "b3"], "a1 b1 a2 b2 a3 b3"),
        ] {
            assert_eq!(order(&mut queued(&items)), expected, "{case}");
        }
    }

    #[test]
    fn who_comes_back_is_in_the_next_round_and_holds_nobody_up() {
        let mut turns = queued(&["a1", "a2", "a3", "a4"]);
        let mut taken = Vec::new();
        for polite in ["b1", "b2", "b3", "b4"] {
            taken.extend(turns.pop());
            turns.push(client(polite), polite);
        }

        assert_eq!(
            (taken.join(" "), order(&mut turns)),
            ("a1 b1 a2 b2".into(), "a3 a4 b3 b4".into())
        );
    }

    #[test]
    fn room_is_made_where_most_waits() {
        let mut turns = queued(&["a1", "b1", "a2", "b2", "a3"]);
        assert_eq!(turns.give_up_for(client("a")), None, "nobody has more");
        assert_eq!(turns.give_up_for(client("b")), None, "it would have as many");
        assert_eq!(turns.give_up_for(client("c")), Some("a3"));
        turns.push(client("a"), "a4");
        assert_eq!(order(&mut turns), "a1 b1 a2 b2 a4");

        let mut turns = Turns::default();
        assert_eq!(turns.give_up_for(client("c")), None);
        for item in ["n1", "n2", "n3"] {
            turns.push(Client::NOBODY, item);
        }
        assert_eq!(turns.give_up_for(client("c")), None, "who is nobody has no more than others");
    }

    #[test]
    fn what_goes_ahead_is_what_each_other_has_before() {
        let turns = queued(&["a1", "a2", "a3", "b1"]);
        let ahead = |name| turns.ahead_of(client(name));

        assert_eq!((ahead("a"), ahead("b"), ahead("c")), (4, 3, 2));
        assert_eq!(Turns::<()>::default().ahead_of(client("a")), 0);
    }

    proptest! {
        #[test]
        fn each_client_has_one_turn_in_a_round_and_nothing_is_lost_or_kept(
            // A client that asks; `None`: somebody is served.
            steps in prop::collection::vec(prop::option::weighted(0.6, 0_u64..5), 0..200),
            given_up in prop::collection::vec(prop::option::of(0_u64..5), 200),
        ) {
            let mut turns = Turns::default();
            // What waits, by client and in order.
            let mut expected: Vec<Vec<usize>> = vec![Vec::new(); 5];
            // How often another was served since a client that waits was.
            let mut passed = [[0_usize; 5]; 5];
            let ends = std::iter::repeat_n(None, 200);
            for (number, step) in steps.into_iter().chain(ends).enumerate() {
                let waiting = expected.iter().map(Vec::len).sum::<usize>();
                prop_assert_eq!(turns.len(), waiting);
                if let Some(client) = step {
                    let at = client as usize;
                    if expected[at].is_empty() {
                        passed[at] = [0; 5];
                    }
                    if let Some(Some(victim_for)) = given_up.get(number) {
                        let most = expected.iter().map(Vec::len).max().unwrap();
                        let own = expected[*victim_for as usize].len();
                        match turns.give_up_for(Client(*victim_for + 1)) {
                            Some((client, item)) => {
                                let of: &mut Vec<usize> = &mut expected[client];
                                prop_assert!(of.len() + 1 >= most && of.len() > own + 1);
                                prop_assert_eq!(of.pop(), Some(item));
                            }
                            None => prop_assert!(most <= own + 2),
                        }
                    }
                    turns.push(Client(client + 1), (at, number));
                    expected[at].push(number);
                } else if let Some((at, item)) = turns.pop() {
                    prop_assert_eq!(expected[at].remove(0), item);
                    passed[at] = [0; 5];
                    for other in (0..5).filter(|&other| !expected[other].is_empty()) {
                        passed[other][at] += usize::from(other != at);
                        prop_assert!(passed[other][at] <= 2, "{} waits for {}", other, at);
                    }
                } else {
                    prop_assert_eq!(waiting, 0);
                }
            }

            prop_assert!(turns.is_empty() && turns.clients.is_empty());
        }
    }
}
