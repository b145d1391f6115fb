//! An application that takes back the rest of short sends: every reader of its log gets all of it, once and in order, and the
//! count of sent messages excludes those taken back.

use echoring_topics::HubReport;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use echoring_proto::connection::{Chunk, Closed};
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use echoring_proto::handshake::{Request, Response, Upgrade};
use echoring_runtime::driver::Token;
use echoring_runtime::driver::sim::Random;
use echoring_runtime::shard::{Answer, Application, ConnectionContext, Context, Disposition, Kinds};

use super::client::{self, Item, Leave, MessageKind};
use super::world::{World, config};
use super::{for_each_seed, seeds};

const MESSAGES_MAX: usize = 60;
const MESSAGE_BYTES_MAX: usize = 3_000;

/// Encoded frames, concatenated.
#[derive(Debug)]
struct Log {
    messages: Vec<Vec<u8>>,
    bytes: Bytes,
    /// The start of each frame, and the end of the last one.
    starts: Vec<usize>,
}

impl Log {
    fn random(random: &mut Random) -> Log {
        let (mut messages, mut bytes, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        for _ in 0..random.between(1, MESSAGES_MAX) {
            let payload = client::payload(random, MessageKind::Binary, MESSAGE_BYTES_MAX);
            let mut head = [0; HEADER_BYTES_MAX];
            let head_bytes =
                frame::encode(&Header::new(Opcode::Binary, true, None, payload.len()), &mut head);
            bytes.extend_from_slice(&head[..head_bytes]);
            bytes.extend_from_slice(&payload);
            starts.push(bytes.len());
            messages.push(payload);
        }
        Log { messages, bytes: bytes.into(), starts }
    }
}

/// Sends the log to every client. A reader is the number of its next frame.
#[derive(Debug)]
struct Teller {
    log: Rc<Log>,
    readers: BTreeMap<Token, usize>,
    /// Messages passed to the shard, without those taken back.
    sent: u64,
    /// Messages taken back, over all runs.
    taken_back: Rc<Cell<usize>>,
    secured: bool,
}

impl Teller {
    fn tell(&mut self, cx: &mut Context<'_, Teller>, token: Token) {
        let Some(next) = self.readers.get_mut(&token) else { return };
        // Until the batch has no more room or the log is over: nothing would wake a shard that stopped before.
        while *next < self.log.messages.len() && cx.is_writable(token) {
            let end = self.log.messages.len().min(*next + 1 + (*next + token.index as usize) % 9);
            let frames = self.log.bytes.slice(self.log.starts[*next]..self.log.starts[end]);
            let messages = (end - *next) as u64;
            if cx.share(token, frames, messages, end as u64).is_err() {
                return;
            }
            *next = end;
            self.sent += messages;
        }
    }
}

impl Kinds for Teller {
    type Peer = ();
    type Message = ();
}

impl Application for Teller {
    type Kinds = Teller;
    type Command = ();
    type Report = HubReport;

    fn report(&self) -> HubReport {
        HubReport::default()
    }

    fn request(
        &mut self,
        _: &mut Context<'_, Teller>,
        _: Token,
        _: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<()> {
        Answer::Upgrade { peer: (), subprotocol: None, whole: true }
    }

    fn opened(&mut self, _: &mut Context<'_, Teller>, token: Token, _: Option<&Response>) {
        self.readers.insert(token, 0);
    }

    fn chunk(&mut self, _: &mut ConnectionContext<'_, Teller>, _: Chunk<'_>) -> Disposition {
        Disposition::Done
    }

    fn blocked(&mut self, cx: &mut Context<'_, Teller>, token: Token) {
        let Some(next) = self.readers.get_mut(&token) else { return };
        assert!(cx.link(token).is_some_and(|link| link.is_blocked()), "it is told of what holds already");
        let starts = &self.log.starts;
        while let Some((tag, bytes)) = cx.unsent_shared(token) {
            assert!(!self.secured, "what was sealed cannot be taken back");
            assert_eq!(tag as usize, *next, "the last piece comes first");
            let (unsent, counted) =
                (cx.unsent_bytes(token) as usize, cx.counters().traffic.total().bytes_out);
            let from = starts[*next] - bytes;
            // The first frame of which nothing has left; one that would be all of the rest stays.
            let mut kept = starts.partition_point(|&start| start < from);
            if starts[kept] == from && unsent == bytes {
                kept += 1;
            }
            let taken = starts[*next] - starts[kept];
            if taken == 0 {
                return assert_eq!(unsent, bytes, "one frame is left");
            }
            assert!(cx.take_back(token, taken, (*next - kept) as u64));
            assert_eq!(cx.unsent_bytes(token) as usize, unsent - taken);
            assert_eq!(cx.counters().traffic.total().bytes_out, counted - taken as u64);
            self.sent -= (*next - kept) as u64;
            self.taken_back.update(|count| count + *next - kept);
            *next = kept;
            if taken < bytes {
                break;
            }
        }
    }

    fn closed(&mut self, _: &mut Context<'_, Teller>, token: Token, (): (), _: &Closed) {
        self.readers.remove(&token);
    }

    fn tick_ended(&mut self, cx: &mut Context<'_, Teller>) {
        let tokens: Vec<Token> = self.readers.keys().copied().collect();
        for token in tokens {
            self.tell(cx, token);
        }
        assert_eq!(cx.counters().traffic.total().messages_out, self.sent);
    }
}

fn tell(seed: u64, secured: bool, taken_back: &Rc<Cell<usize>>) {
    let mut random = Random::new(seed);
    let log = Rc::new(Log::random(&mut random));
    let world = World::new(seed, 1, config(), 4 << 20, secured, |_| Teller {
        log: log.clone(),
        readers: BTreeMap::new(),
        sent: 0,
        taken_back: taken_back.clone(),
        secured,
    });
    let mut pings = Vec::new();
    for _ in 0..random.between(1, 5) {
        let client = world.add("/");
        let client = &mut world.clients.borrow_mut()[client];
        let mut script = Vec::new();
        pings.push(random.below(6));
        for ping in 0..pings[pings.len() - 1] {
            client::frame(&mut random, true, 9, &[ping as u8], &mut script);
        }
        if random.chance(200) {
            client::frame(&mut random, true, 8, &1000_u16.to_be_bytes(), &mut script);
            client.leave = Leave::Close(1000);
        }
        client.script.extend(script);
    }
    let messages = log.messages.len();
    let expected = pings.clone();
    world.run(move |clients| {
        clients.iter().zip(&expected).all(|(client, pings)| match client.leave {
            Leave::Close(_) => client.end.is_some(),
            // Of several pings the latest is owed an answer, and that is their number.
            _ => {
                let heard = client.heard.iter().filter(|item| matches!(item, Item::Message(..))).count();
                heard == messages && (*pings == 0 || last_pong(&client.heard) == Some(*pings - 1))
            }
        })
    });
    world.drain();
    for client in world.clients.borrow().iter() {
        let mut next = log.messages.iter();
        for item in &client.heard {
            match item {
                Item::Message(MessageKind::Binary, payload) => assert!(next.next() == Some(payload)),
                Item::Pong(_) | Item::Close(_) => {}
                other => panic!("{other:.40?} was never sent"),
            }
        }
        assert!(next.next().is_none() || client.leave == Leave::Close(1000), "nothing is lost");
        assert!(client.is_unbroken() && client.decoder.is_between_items());
    }
}

fn last_pong(heard: &[Item]) -> Option<usize> {
    heard.iter().rev().find_map(|item| match item {
        Item::Pong(payload) => Some(usize::from(payload[0])),
        _ => None,
    })
}

#[test]
fn what_is_taken_back_arrives_later_once_and_in_order() {
    let taken_back = Rc::default();
    for_each_seed("what_is_taken_back_arrives_later_once_and_in_order", |seed| {
        tell(seed, false, &taken_back)
    });
    let single = seeds::single().is_some();
    assert!(single || taken_back.get() > 0, "no seed has a short send");
}

#[test]
fn what_was_sealed_is_not_taken_back() {
    let taken_back = Rc::default();
    for_each_seed("what_was_sealed_is_not_taken_back", |seed| tell(seed, true, &taken_back));
    assert_eq!(taken_back.get(), 0);
}
