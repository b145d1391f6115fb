//! The commands that operate a running server through its admin address.

pub(crate) mod admin_client;
pub(crate) mod cluster;
pub(crate) mod health;
pub(crate) mod reload;
pub(crate) mod top;

#[cfg(all(test, feature = "full"))]
mod tests {
    use clap::CommandFactory as _;

    /// The commands with these options, with the words before them.
    fn operating(command: &clap::Command, words: &str, found: &mut Vec<String>) {
        let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
        if has("admin") && has("admin_token_file") {
            found.push(words.to_owned());
        }
        for command in command.get_subcommands() {
            operating(command, &format!("{words} {}", command.get_name()), found);
        }
    }

    /// Each is named beside the table of the commands of the admin address, which says where they go.
    #[test]
    fn commands_of_the_program_are_requests_of_the_admin_address() {
        let mut found = Vec::new();
        operating(&crate::Cli::command(), "echoring", &mut found);
        // These two have the address.
        found.retain(|command| !["echoring serve", "echoring proxy"].contains(&&**command));
        assert_eq!(found.len(), 4, "{found:?}");
        let text = include_str!("../../docs/reference/admin.md");
        let section = text.split_once("### Commands while a previous server drains").expect("the section").1;
        let (section, _) = section.split_once("\n## ").expect("a next section");
        for command in found {
            assert!(section.contains(&format!("`{command}`")), "{command}");
        }
    }
}
