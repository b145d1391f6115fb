//! Conversions between a server's positions and reasons of gaps, and those of clients, in one process.
//!
//! The types differ because a client also knows other servers: their epochs are any text, and their reasons any words.

use echoring_topics::{GapReason as ServerGapReason, Position as ServerPosition, PositionError};

use crate::{GapReason, Position};

impl From<ServerPosition> for Position {
    fn from(position: ServerPosition) -> Position {
        Position { epoch: format!("{:x}", position.epoch), offset: position.offset }
    }
}

impl TryFrom<&Position> for ServerPosition {
    type Error = PositionError;

    /// # Errors
    /// For a position that no echoring server has sent: its epoch is not hexadecimal, or its offset is 2^53 or more.
    fn try_from(position: &Position) -> Result<ServerPosition, PositionError> {
        position.to_string().parse()
    }
}

impl TryFrom<Position> for ServerPosition {
    type Error = PositionError;

    fn try_from(position: Position) -> Result<ServerPosition, PositionError> {
        ServerPosition::try_from(&position)
    }
}

impl From<ServerGapReason> for GapReason {
    fn from(reason: ServerGapReason) -> GapReason {
        GapReason::from(reason.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_of_a_server_becomes_a_client_s_and_the_same_again() {
        for (epoch, offset) in [(0, 0), (0x1f_3a5c, 42), (u64::MAX, (1 << 53) - 1)] {
            let server = ServerPosition { epoch, offset };
            let client = Position::from(server);
            assert_eq!(client.to_string(), server.to_string());
            assert_eq!(ServerPosition::try_from(&client), Ok(server));
            assert_eq!(ServerPosition::try_from(client), Ok(server));
        }
    }

    #[test]
    fn a_position_of_another_server_is_refused() {
        for (epoch, offset) in
            [("", 1), ("news", 1), ("a-b", 1), ("1f3a5c", 1 << 53), ("10000000000000000", 1)]
        {
            let other = Position { epoch: epoch.to_owned(), offset };
            assert!(ServerPosition::try_from(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn each_reason_of_a_server_is_one_that_clients_know() {
        for (server, client) in [
            (ServerGapReason::Slow, GapReason::Slow),
            (ServerGapReason::History, GapReason::History),
            (ServerGapReason::Memory, GapReason::Memory),
            (ServerGapReason::Drain, GapReason::Drain),
        ] {
            assert_eq!(GapReason::from(server), client);
        }
    }
}
