//! The protocols that ship with the program.

use super::Protocol;

/// Each preset with its declaration.
const PRESETS: [(&str, &str); 13] = [
    ("action-cable", include_str!("presets/action-cable.toml")),
    ("centrifuge", include_str!("presets/centrifuge.toml")),
    ("echo", include_str!("presets/echo.toml")),
    ("echoring.v1", include_str!("presets/echoring.v1.toml")),
    ("graphql-ws", include_str!("presets/graphql-ws.toml")),
    ("json-rpc", include_str!("presets/json-rpc.toml")),
    ("mqtt", include_str!("presets/mqtt.toml")),
    ("mqtt5", include_str!("presets/mqtt5.toml")),
    ("phoenix", include_str!("presets/phoenix.toml")),
    ("signalr", include_str!("presets/signalr.toml")),
    ("socket.io", include_str!("presets/socket.io.toml")),
    ("stomp", include_str!("presets/stomp.toml")),
    ("wamp", include_str!("presets/wamp.toml")),
];

impl Protocol {
    /// The declaration of a preset, as TOML.
    pub fn preset(name: &str) -> Option<&'static str> {
        PRESETS.iter().find(|(preset, _)| *preset == name).map(|(_, text)| *text)
    }
}

/// The names of all presets, in alphabetical order.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}
