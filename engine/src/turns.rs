//! What waits for its turn, where those whom it is for take turns.
//!
//! A client that asks for a lot holds up itself: in each round every client that waits has one
//! turn, and whoever asks for the first time goes before those who have asked for more than that.
//! What is for one client keeps its order. Pure: what waits is anything, and who takes it decides
//! when.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whom something is done for: a connection.
///
/// Not an address, which may be that of a proxy with thousands behind it, who would share the turns
/// of one. Who opens many connections has as many turns, and may open so many and no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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

/// A queue whose clients take turns. It knows nothing of a client of whom nothing waits.
///
/// Of few clients, or of many who ask for one thing each, what comes goes to the end; where a client
/// asks for a lot, others are put in before.
#[derive(Debug)]
pub struct Turns<T> {
    /// In order.
    waiting: VecDeque<Place<T>>,
    /// In order.
    clients: Vec<Share>,
    /// The round of what was taken last.
    round: u64,
}

#[derive(Debug)]
struct Place<T> {
    turn: Turn,
    client: Client,
    item: T,
}

/// When it is something's turn, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    round: u64,
    /// Whether something of the same client waited when it came.
    follows: bool,
}

/// What waits of one client: one turn in each of as many rounds, one after the other.
#[derive(Clone, Copy, Debug)]
struct Share {
    client: Client,
    waiting: usize,
    last_round: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), clients: Vec::new(), round: 0 }
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
        let turn = match self.find(client) {
            Ok(at) => {
                let share = &mut self.clients[at];
                share.waiting += 1;
                share.last_round += 1;
                Turn { round: share.last_round, follows: true }
            }
            Err(at) => {
                let last_round = self.round + 1;
                self.clients.insert(at, Share { client, waiting: 1, last_round });
                Turn { round: last_round, follows: false }
            }
        };
        let place = Place { turn, client, item };
        if self.waiting.back().is_none_or(|last| last.turn <= turn) {
            self.waiting.push_back(place);
        } else {
            let at = self.waiting.partition_point(|other| other.turn <= turn);
            self.waiting.insert(at, place);
        }
    }

    /// What is next.
    pub fn front(&self) -> Option<&T> {
        self.waiting.front().map(|place| &place.item)
    }

    /// All that waits, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|place| &place.item)
    }

    /// Take what is next.
    pub fn pop(&mut self) -> Option<T> {
        let Place { turn, client, item } = self.waiting.pop_front()?;
        self.round = turn.round;
        self.left(client, 0);
        Some(item)
    }

    /// Whether of somebody more waits than would of `client` with one more, so that there is
    /// something to [`Turns::give_up_for`] it.
    pub fn has_greedier(&self, client: Client) -> bool {
        // Whoever has a turn in the last round has one in each before.
        self.waiting.back().is_some_and(|Place { client: most, .. }| {
            *most != Client::NOBODY && self.waiting_of(*most) > self.waiting_of(client) + 1
        })
    }

    /// Take back what came last of the client of whom most waits, where that is greedier.
    pub fn give_up_for(&mut self, client: Client) -> Option<T> {
        if !self.has_greedier(client) {
            return None;
        }
        let Place { client: most, item, .. } = self.waiting.pop_back()?;
        self.left(most, 1);
        Some(item)
    }

    /// Take out what is meant, wherever it stands; what waits behind it for the same client moves up.
    pub fn remove(&mut self, mut is_meant: impl FnMut(&T) -> bool) -> Option<T> {
        let mut at = self.waiting.iter().position(|place| is_meant(&place.item))?;
        let client = self.waiting[at].client;
        for next in at + 1..self.waiting.len() {
            if self.waiting[next].client == client {
                // The turns stay where they are, one in each round.
                let [turn, next_turn] = [at, next].map(|at| self.waiting[at].turn);
                self.waiting.swap(at, next);
                self.waiting[at].turn = turn;
                self.waiting[next].turn = next_turn;
                at = next;
            }
        }
        let Place { item, .. } = self.waiting.remove(at)?;
        self.left(client, 1);
        Some(item)
    }

    fn waiting_of(&self, client: Client) -> usize {
        self.find(client).map_or(0, |at| self.clients[at].waiting)
    }

    /// How much goes before what would come now for a client, at most.
    pub fn ahead_of(&self, client: Client) -> usize {
        let own = self.waiting_of(client);
        let others = self.clients.len() - usize::from(own > 0);
        self.len().min(own + others * (own + 1))
    }

    /// One less of a client waits, which had its turn in so many rounds of its last ones.
    fn left(&mut self, client: Client, rounds: u64) {
        let Ok(at) = self.find(client) else { return };
        let share = &mut self.clients[at];
        share.waiting -= 1;
        share.last_round -= rounds;
        if share.waiting == 0 {
            self.clients.remove(at);
        }
    }

    /// The place of a client, or the one that it would have.
    fn find(&self, client: Client) -> Result<usize, usize> {
        self.clients.binary_search_by_key(&client, |share| share.client)
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
    fn who_leaves_is_followed_by_the_next_of_the_same_client() {
        for (leaves, expected) in [
            ("a1", "a2 b1 a3 b2"),
            ("a2", "a1 b1 a3 b2"),
            ("a3", "a1 b1 a2 b2"),
            ("b1", "a1 b2 a2 a3"),
        ] {
            let mut turns = queued(&["a1", "a2", "a3", "b1", "b2"]);
            assert_eq!(turns.remove(|item| *item == leaves), Some(leaves));
            assert_eq!(turns.remove(|item| *item == leaves), None);
            assert_eq!(order(&mut turns), expected, "{leaves}");
        }
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
            // What is taken out, by when it came.
            left in prop::collection::vec(prop::option::weighted(0.2, 0_usize..200), 200),
        ) {
            let mut turns = Turns::default();
            // What waits, by client and in order.
            let mut expected: Vec<Vec<usize>> = vec![Vec::new(); 5];
            // How often another was served since a client that waits was.
            let mut passed = [[0_usize; 5]; 5];
            let ends = std::iter::repeat_n(None, 200);
            for (number, step) in steps.into_iter().chain(ends).enumerate() {
                if let Some(Some(leaves)) = left.get(number) {
                    let removed = turns.remove(|(_, item)| item == leaves);
                    let of = expected.iter().position(|items| items.contains(leaves));
                    prop_assert_eq!(removed.map(|(at, _)| at), of);
                    if let Some(of) = of {
                        expected[of].retain(|item| item != leaves);
                    }
                }
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
