//! The command line: what can be typed, and the help that teaches it.

use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, Args as ArgGroup, CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::config::BackendChoice;

/// Where the configuration is unless `--config` or `WANSPLIT_CONFIG` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/wansplit/wansplit.toml";

/// The heading in the help over options that every command takes.
const GLOBAL: &str = "Options of every command";

/// How a command ends, for the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: all is well.
    Good = 0,
    /// 1: it was tried and did not work.
    Failed = 1,
    /// 2: bad configuration or usage; nothing was touched. Clap ends with the same.
    Refused = 2,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

/// Makes a Linux router use all its internet lines well.
///
/// The kernel makes a safe choice of line for every new flow, wansplit may
/// better it by your rules, and the connection's mark remembers the answer: no
/// later packet leaves the kernel. If wansplit stops or dies, the kernel goes on
/// balancing by itself.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "wansplit", version, verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Args {
    /// Configuration file
    /// [default: /etc/wansplit/wansplit.toml; lab: its own]
    /// [env: WANSPLIT_CONFIG, not for lab]
    #[arg(short, long, global = true, value_name = "PATH", verbatim_doc_comment, help_heading = GLOBAL)]
    pub config: Option<PathBuf>,

    /// Directory of the control socket
    /// [default: /run/wansplit, or /run/wansplit/net-INODE
    /// in a named network namespace]
    #[arg(long, global = true, value_name = "PATH", env = "WANSPLIT_RUN_DIR", hide_env_values = true,
          verbatim_doc_comment, help_heading = GLOBAL)]
    pub run_dir: Option<PathBuf>,

    /// Say more; twice: say everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GLOBAL)]
    pub verbose: u8,

    /// Say only what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = GLOBAL)]
    pub quiet: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// The configuration file: as typed, else as `WANSPLIT_CONFIG` says, else [`DEFAULT_CONFIG`].
    /// (The lab has a configuration of its own unless one is typed, so clap must not fill it in.)
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        let from_environment = || std::env::var_os("WANSPLIT_CONFIG").filter(|path| !path.is_empty());
        let path = self.config.clone().or_else(|| from_environment().map(PathBuf::from));
        path.unwrap_or_else(|| Path::new(DEFAULT_CONFIG).to_owned())
    }

    /// How much to log.
    #[must_use]
    pub fn log_level(&self) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::WARN,
            (false, 0) => LevelFilter::INFO,
            (false, 1) => LevelFilter::DEBUG,
            (false, _) => LevelFilter::TRACE,
        }
    }
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Set everything up and decide new flows, in the foreground
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// Take everything down at the end, as `wansplit down` does;
        /// without it the kernel goes on balancing
        #[arg(long, verbatim_doc_comment)]
        down_on_exit: bool,
    },

    /// Check the configuration and the rules' examples; touches nothing
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Print what `run` would change, as ip and firewall commands
    #[command(after_help = PLAN_EXAMPLES)]
    Plan {
        /// Print the whole wanted state, also where it is so already
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Take everything of wansplit's out of the kernel, also after a crash
    #[command(after_help = DOWN_EXAMPLES)]
    Down,

    /// Show what the running daemon does: lines, rules, reasons, queues
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Show it again and again, every so many seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
              value_parser = clap::value_parser!(u32).range(1..=86_400))]
        watch: Option<u32>,
        /// Show the latest decisions too: which flow, where, why
        #[arg(long)]
        flows: bool,
    },

    /// Make the running daemon read all its files again, all or nothing
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload,

    /// Print what happens to lines, as it happens
    #[command(after_help = EVENTS_EXAMPLES)]
    Events {
        /// Print JSON, an object a line
        #[arg(long)]
        json: bool,
    },

    /// Send no new flows by a line; those that run on it finish
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        /// The line's name in the configuration
        uplink: String,
        /// Also if it is the last line that works
        #[arg(long)]
        force: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Send new flows by a drained line again
    #[command(after_help = UNDRAIN_EXAMPLES)]
    Undrain {
        /// The line's name in the configuration
        uplink: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Take a line down by hand, as if it were dead, or up again
    #[command(after_help = UPLINK_EXAMPLES)]
    Uplink {
        /// The line's name in the configuration
        uplink: String,
        /// What to do with it
        action: Direction,
        /// Also if it is the last line that works
        #[arg(long)]
        force: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Tell which line a flow would go by, and why
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// The flow: protocol, source, `to`, destination, and details
        #[arg(required = true, value_name = "FLOW", num_args = 1..)]
        flow: Vec<String>,
        /// Think of this line as down; may be repeated
        #[arg(long, value_name = "UPLINK")]
        down: Vec<String>,
        /// Ask the running daemon, which knows names and lines
        #[arg(long)]
        live: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Judge captured traffic: what each flow is, its name, rule and line
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay {
        /// Captures, pcap or pcapng; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Time the rules' decisions, and name the rules that never decide
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),

    /// Try it all in a network made for it, and show which flow went where
    #[command(after_help = LAB_EXAMPLES)]
    Lab(Lab),
}

/// Where a line is taken by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// It counts as dead
    Down,
    /// It is used if it works
    Up,
}

/// What is measured, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, ArgGroup)]
pub struct Bench {
    /// Captures, pcap or pcapng; `-` is standard input
    /// [default: flows made for the rules]
    #[arg(value_name = "FILE", verbatim_doc_comment)]
    pub files: Vec<PathBuf>,

    /// Flows that are made, or taken of captures
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub flows: u32,

    /// How long decisions are timed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,

    /// Makes other flows; the same number the same
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "files")]
    pub seed: u64,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What the lab looks like. Its configuration file is [`Args::config`].
#[derive(Debug, Clone, PartialEq, Eq, ArgGroup)]
pub struct Lab {
    /// How long the traffic runs
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,

    /// Internet lines, 2 to 16 [default: 2, or by weights]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u8>::new().range(2..=16))]
    pub uplinks: Option<u8>,

    /// Shares of new flows, 1 to 255 each [default: 1 each]
    #[arg(long, value_name = "W,W,..", value_delimiter = ',',
          value_parser = RangedU64ValueParser::<u8>::new().range(1..=255))]
    pub weights: Vec<u8>,

    /// auto (the default), nft, iptables-nft, iptables-legacy
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Backend::Auto, hide_possible_values = true, hide_default_value = true)]
    pub backend: Backend,

    /// Computers in the LAN, 1 to 50
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = RangedU64ValueParser::<u8>::new().range(1..=50))]
    pub clients: u8,

    /// Leave the network up, and say how to enter it
    #[arg(long)]
    pub keep: bool,

    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

impl Lab {
    /// Whether what was typed goes together; `has_file`: a configuration file was named too.
    ///
    /// # Errors
    /// A usage error to [`clap::Error::exit`] with.
    pub fn check(&self, has_file: bool) -> Result<(), clap::Error> {
        let of_its_own = self.uplinks.is_some() || !self.weights.is_empty() || self.backend != Backend::Auto;
        if has_file && of_its_own {
            return Err(Args::command().error(
                ErrorKind::ArgumentConflict,
                "--uplinks, --weights and --backend are for the lab's own configuration; \
                 the file of --config says them itself",
            ));
        }
        self.line_weights().map(drop)
    }

    /// The lines' weights, one each.
    ///
    /// # Errors
    /// `--uplinks` and `--weights` name different numbers of lines; a usage error to
    /// [`clap::Error::exit`] with.
    pub fn line_weights(&self) -> Result<Vec<u8>, clap::Error> {
        let lines = self.uplinks.map_or(self.weights.len(), usize::from);
        match self.weights.len() {
            0 => Ok(vec![1; lines.max(2)]),
            given if given == lines && (2..=16).contains(&given) => Ok(self.weights.clone()),
            given => Err(Args::command().error(
                ErrorKind::ValueValidation,
                format!("--weights names {given} lines; the lab has {} (2 to 16 can be)", lines.max(2)),
            )),
        }
    }
}

/// Firewall backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Backend {
    /// The first of the others that works
    #[default]
    Auto,
    /// nftables
    Nft,
    /// iptables-nft and ip6tables-nft
    IptablesNft,
    /// iptables-legacy and ip6tables-legacy
    IptablesLegacy,
}

impl Backend {
    /// Its name in a configuration file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::Nft => "nft",
            Backend::IptablesNft => "iptables-nft",
            Backend::IptablesLegacy => "iptables-legacy",
        }
    }
}

impl From<Backend> for BackendChoice {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => BackendChoice::Auto,
            Backend::Nft => BackendChoice::Nft,
            Backend::IptablesNft => BackendChoice::IptablesNft,
            Backend::IptablesLegacy => BackendChoice::IptablesLegacy,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  wansplit lab                see it work on this machine; leaves nothing behind
  wansplit check              is the configuration right?
  wansplit plan               what would `run` change?
  wansplit run                do it
  wansplit status             what did it do, and why?
  wansplit down               undo it

Exit codes:
  0  all is well
  1  it was tried and did not work
  2  bad configuration or usage; nothing was touched";

const RUN_EXAMPLES: &str = "\
Examples:
  wansplit run                          with /etc/wansplit/wansplit.toml
  wansplit -c ./router.toml -v run      with another file, saying more
  wansplit run --down-on-exit           a try: Ctrl-C leaves all as it was

Signals:
  SIGTERM, SIGINT  stop deciding, lose no packet; the kernel goes on balancing
  SIGHUP           read all files again, all or nothing

Exit codes: 0 stopped as asked, 1 failed and rolled back, 2 bad configuration";

const CHECK_EXAMPLES: &str = "\
Examples:
  wansplit check                        every error at once, with its place
  wansplit -c ./router.toml check --json

Exit codes: 0 good, 2 bad configuration";

const PLAN_EXAMPLES: &str = "\
Examples:
  wansplit plan                         nothing printed: nothing would change
  wansplit plan --all > wanted.txt      the whole state, to read or compare

Exit codes: 0 printed, 1 the machine could not be read, 2 bad configuration";

const DOWN_EXAMPLES: &str = "\
Examples:
  systemctl stop wansplit && wansplit down

Others' rules, routes and marks stay as they are; sysctls get back the values
they had.

Exit codes: 0 nothing of wansplit's is left, 1 something could not be removed";

const STATUS_EXAMPLES: &str = "\
Examples:
  wansplit status
  wansplit status --flows               with the latest decisions
  wansplit status --watch               again every 2 seconds
  wansplit status --json | jq '.rules[] | {name, flows}'

Exit codes: 0 shown, 1 the daemon does not answer";

const RELOAD_EXAMPLES: &str = "\
Examples:
  wansplit check && wansplit reload     like SIGHUP, but tells how it went

It prints what has changed: uplinks that came or went, and more. Flows whose
line stays lose no packet. An error in a file, or on the way, changes nothing:
what is in force stays. Mark bits and the backend change only after
`wansplit down`. Lists and databases that change are taken in without it.

Exit codes: 0 the new configuration is in force, 1 it is not";

const EVENTS_EXAMPLES: &str = "\
Examples:
  wansplit events
  wansplit events --json | jq 'select(.event == \"down\")'

Events: up, down, suspected, drained, unused and address of a line in a family,
removed; online and offline of a family. Who reads too slowly is told how many
were left out. A program can be run for each: see [hooks] in the README.

Exit codes: 0 the daemon or the reader has ended, 1 the daemon does not answer";

const DRAIN_EXAMPLES: &str = "\
Examples:
  wansplit drain isp1                   before you unplug its modem
  wansplit status                       `open` counts what still runs on it
  wansplit undrain isp1

Clients that stick to the line leave it with their next flow. Port forwards
are still answered by it. If no other line works, it is used all the same.
Reloads and restarts change nothing of it; `wansplit down` forgets it.

Exit codes: 0 done, 1 refused or the daemon does not answer";

const UNDRAIN_EXAMPLES: &str = "\
Examples:
  wansplit undrain isp1                 its modem is back

Exit codes: 0 done, 1 refused or the daemon does not answer";

const UPLINK_EXAMPLES: &str = "\
Examples:
  wansplit uplink isp1 down             what happens if it dies?
  wansplit uplink isp1 up               as the machine and the probes have it

Flows that run on a line that is down are treated as their rule's `live` says.
It stays so over reloads and restarts, until `up` or `wansplit down`.

Exit codes: 0 done, 1 refused or the daemon does not answer";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  wansplit explain tcp 10.77.0.5:40000 to 198.51.100.7:443 host=example.org
  wansplit explain 'udp 10.77.0.5:4000 > 198.51.100.7:443 app=quic' --down isp1
  wansplit explain --live tcp 10.77.0.5:40000 to 198.51.100.7:443

Details are those of rules' examples: host=, app=, alpn=, dscp=, lan=, mac=,
length=, country=, asn=, at=mon-09:30, an ICMP type. Without --live all lines
are thought to work, and nothing is known of names.

Exit codes: 0 explained, 1 the daemon does not answer or cannot tell,
2 bad configuration or usage";

const REPLAY_EXAMPLES: &str = "\
Examples:
  wansplit replay evening.pcap          names, and rules where they are known
  wansplit --config ./wansplit.toml replay evening.pcap
  wansplit replay --json *.pcapng | jq '.flows[] | select(.name == null)'
  tcpdump -i lan0 -w - | wansplit replay -

A TCP flow is decided by what is known when it begins: a DNS answer seen before
it, an earlier flow to the same address. A UDP flow tells by its first
datagrams. Frames may be Ethernet (with VLANs, PPPoE), raw IP or cooked; of
tunnels (IP in IP, GRE) the flows inside are shown.

Exit codes: 0 all files were read, 1 one of them could not be,
2 bad configuration or usage";

const BENCH_EXAMPLES: &str = "\
Examples:
  wansplit bench                        flows made for each of your rules
  wansplit bench evening.pcap           your own traffic: what is hit how often
  wansplit -c ./new.toml bench --json | jq '.rules[] | select(.flows == 0)'

Without a capture every rule gets as many flows that fit it. One that decides
none of them is hardly ever reached, and the rules that take them are named.
Shares then say nothing of your traffic; a capture's do.

COMPARED is with how many rules a flow is compared at most: the others are
ruled out by a look-up of its host, ports and nets. NS is the median of a
rule's batches of 64 decisions by known facts, all lines usable; reading the
packet comes on top.

It works from the files alone and needs no root. Beyond --seconds, reading
captures and sorting flows take their time.

Exit codes: 0 measured, 1 a capture could not be read, 2 bad configuration or
usage";

const LAB_EXAMPLES: &str = "\
Examples:
  wansplit lab                          two lines, 20 seconds
  wansplit lab --weights 3,1            the first line takes three of four flows
  wansplit lab --uplinks 16 --seconds 5
  wansplit lab --config ./router.toml   your own file, in a network that fits it
  wansplit lab --keep                   look around in it afterwards

It runs in network namespaces of its own and does not touch the machine's
network; root is not needed where user namespaces are allowed.

Exit codes: 0 every flow left by its line, 1 something did not work,
2 bad configuration or usage";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_before_and_after_the_command() {
        for line in ["-c w.toml -v status", "status -c w.toml -v"] {
            let args = parse(line).unwrap();
            assert_eq!(args.config.as_deref(), Some(Path::new("w.toml")));
            assert_eq!(args.log_level(), LevelFilter::DEBUG);
        }
    }

    #[test]
    fn without_a_path_the_usual_one_is_taken_but_not_by_the_lab() {
        assert_eq!(parse("lab").unwrap().config, None);
        assert_eq!(parse("run -c w.toml").unwrap().config_path(), Path::new("w.toml"));
    }

    #[test]
    fn quiet_and_verbose_exclude_each_other() {
        assert_eq!(parse("-q down").unwrap().log_level(), LevelFilter::WARN);
        assert_eq!(parse("-vv down").unwrap().log_level(), LevelFilter::TRACE);
        assert_eq!(usage_error("-q -v down"), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn watching_takes_seconds_or_two() {
        let watch = |line| match parse(line).unwrap().command {
            Command::Status { watch, .. } => watch,
            other => panic!("{other:?}"),
        };
        assert_eq!(watch("status"), None);
        assert_eq!(watch("status --watch"), Some(2));
        assert_eq!(watch("status --watch 5 --flows"), Some(5));
        assert_eq!(watch("status --watch --flows"), Some(2));
        assert_eq!(usage_error("status --watch 0"), ErrorKind::ValueValidation);
    }

    #[test]
    fn the_lab_has_as_many_lines_as_weights_or_as_asked_or_two() {
        assert_eq!(weights("lab").unwrap(), [1, 1]);
        assert_eq!(weights("lab --weights 3,1,1").unwrap(), [3, 1, 1]);
        assert_eq!(weights("lab --uplinks 16").unwrap(), [1; 16]);
        assert_eq!(weights("lab --uplinks 2 --weights 3,1").unwrap(), [3, 1]);
    }

    #[test]
    fn a_file_and_what_the_file_itself_says_are_a_usage_error() {
        for line in ["lab --uplinks 3", "lab --weights 3,1", "lab --backend nft"] {
            assert_eq!(lab(line).check(true).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{line}");
            assert!(lab(line).check(false).is_ok(), "{line}");
        }
        assert!(lab("lab --seconds 5 --clients 2").check(true).is_ok());
    }

    #[test]
    fn weights_that_do_not_fit_the_lines_are_a_usage_error() {
        for line in ["lab --uplinks 3 --weights 3,1", "lab --weights 7"] {
            let error = weights(line).unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2));
        }
        for line in ["lab --weights 0,1", "lab --weights 256,1", "lab --weights a,b", "lab --uplinks 1"] {
            assert_eq!(usage_error(line), ErrorKind::ValueValidation, "{line}");
        }
    }

    #[test]
    fn the_lab_takes_every_backend_by_its_configuration_name() {
        for (name, backend) in [
            ("auto", BackendChoice::Auto),
            ("nft", BackendChoice::Nft),
            ("iptables-nft", BackendChoice::IptablesNft),
            ("iptables-legacy", BackendChoice::IptablesLegacy),
        ] {
            assert_eq!(BackendChoice::from(lab(&format!("lab --backend {name}")).backend), backend);
        }
    }

    #[test]
    fn bad_usage_ends_with_two() {
        for line in ["", "fly", "run --fast", "lab --seconds x"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_help_of_every_command_shows_an_example_and_its_exit_codes() {
        let mut command = Args::command();
        for command in command.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:\n  ") && help.contains("Exit codes: 0"), "{help}");
        }
    }

    #[test]
    fn no_line_of_help_is_wider_than_a_terminal() {
        let mut command = Args::command();
        command.build();
        let mut helps = vec![command.render_long_help().to_string()];
        helps.extend(command.get_subcommands_mut().map(|command| command.render_help().to_string()));
        let lines = helps.iter().flat_map(|help| help.lines());
        let wide: Vec<&str> = lines.filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:#?}");
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(["wansplit"].into_iter().chain(line.split_whitespace()))
    }

    fn usage_error(line: &str) -> ErrorKind {
        parse(line).unwrap_err().kind()
    }

    fn lab(line: &str) -> Lab {
        match parse(line).unwrap().command {
            Command::Lab(lab) => lab,
            other => panic!("{other:?}"),
        }
    }

    fn weights(line: &str) -> Result<Vec<u8>, clap::Error> {
        lab(line).line_weights()
    }
}
