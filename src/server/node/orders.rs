//! Commands of an operator to a whole node: each reaches every shard that has clients, or fails.
//!
//! The shards are those of this server, and those of the server before it while that one drains. A server that another one has taken over from carries out the commands that its successor passes on, and refuses those of operators.

use crate::commands::node_order::{ClientCount, NodeOrder, OrderError};
use crate::commands::{ShardCommand, blocking};
use crate::node::handle::{Handle, Snapshot};
use crate::processes::Missing;
use echoring_auth::{Block, Blocked};
use echoring_broker::gate::{AuthCommand, unix_now};
use echoring_runtime::shard::ControlMessage;

impl Handle {
    /// Blocks clients: their handshakes are refused with 403, and those that are connected are closed with 4001. The node forgets it when
    /// its process ends, unless another one takes over; lasting blocks belong in the file of
    /// [`AuthSettings::blocked`](crate::AuthSettings::blocked).
    ///
    /// Waits for two seconds at most, and only if the server has taken over from another one that still has clients.
    ///
    /// # Errors
    /// If there are too many blocks, or not all shards carry it out.
    ///
    /// ```
    /// use echoring::server::{Block, Blocked, Handle, OrderError};
    ///
    /// fn ban(server: &Handle, user: &str) -> Result<(), OrderError> {
    ///     let Some(who) = Blocked::subject(user) else { return Ok(()) };
    ///     server.block(Block { who, until: None })
    /// }
    /// ```
    pub fn block(&self, block: Block) -> Result<(), OrderError> {
        self.order(NodeOrder::Block(block))
    }

    /// Ends a block of [`block`](Handle::block), if there is one. Waits as that does.
    ///
    /// # Errors
    /// If not all shards carry it out.
    pub fn unblock(&self, who: &Blocked) -> Result<(), OrderError> {
        self.order(NodeOrder::Unblock(who.clone()))
    }

    /// The blocks of [`block`](Handle::block) that have not ended.
    pub fn blocks(&self) -> Vec<Block> {
        self.known.blocks.list(unix_now())
    }

    /// Carries a command out at all shards of the node.
    ///
    /// # Errors
    /// If not all of them do.
    #[doc(hidden)]
    pub fn order(&self, order: NodeOrder) -> Result<(), OrderError> {
        {
            let orders = self.link.orders();
            if orders.are_closed {
                return Err(OrderError::TakenOver);
            }
            self.carry_out(order.clone())?;
        }
        self.pass_on(order)
    }

    /// Carries a command out at the shards of this server, or in its program.
    pub(crate) fn carry_out(&self, order: NodeOrder) -> Result<(), OrderError> {
        match order {
            NodeOrder::Block(block) => {
                if !self.known.blocks.add(block, unix_now()) {
                    return Err(OrderError::TooManyBlocks);
                }
                self.send_all(|| ControlMessage::Command(ShardCommand::Auth(AuthCommand::Blocked)));
            }
            NodeOrder::Unblock(who) => self.known.blocks.remove(&who),
            NodeOrder::Program(order) => {
                let none = || Err("its program takes no commands".to_owned());
                let carried_out = self.link.program.get().map_or_else(none, |program| (program.0)(order));
                carried_out.map_err(|reason| {
                    OrderError::Previous(format!(
                        "the previous server, which is draining, refuses it: {reason}"
                    ))
                })?;
            }
        }
        Ok(())
    }

    /// Passes a command on to the server before this one, if that still drains.
    ///
    /// # Errors
    /// If that server does not carry it out.
    #[doc(hidden)]
    pub fn pass_on(&self, order: NodeOrder) -> Result<(), OrderError> {
        let Some(previous) = self.link.previous.get().filter(|previous| !previous.is_gone()) else {
            return Ok(());
        };
        blocking::check()?;
        previous.order(order)
    }

    /// The clients of the server before this one, while it drains. No thread of a shard asks this.
    ///
    /// # Errors
    /// If that server does not answer.
    #[doc(hidden)]
    pub fn previous_clients(&self) -> Result<ClientCount, Missing> {
        self.link.previous.get().map_or(Ok(ClientCount::default()), |previous| previous.count())
    }

    /// The clients of this server; `None` if a shard does not answer.
    pub(crate) fn clients(&self) -> Option<ClientCount> {
        let gathered = self.commands.gather_in_time(ControlMessage::Snapshot).ok();
        let (snapshots, _) = gathered.filter(|(_, are_all)| *are_all)?;
        let sum = |count: fn(&Snapshot) -> u64| snapshots.iter().map(count).sum();
        Some(ClientCount {
            connections: sum(|snapshot| snapshot.connections),
            subscriptions: sum(|snapshot| snapshot.application.subscriptions),
        })
    }
}
