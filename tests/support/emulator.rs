//! Runs programs on Debian's stock kernel, as root, in a machine emulated by
//! qemu without hardware support.
//!
//! Scenarios that need a kernel other than the host's (nft's `queue`, netem,
//! flow tables) or root's rights run here, with no effect on the host:
//!
//! ```ignore
//! let emulator = match Emulator::find().and_then(|found| found.tool("nft")) {
//!     Ok(emulator) => emulator,
//!     Err(skip) => return skip.announce(),
//! };
//! let outcome = emulator.run("nft list ruleset", Duration::from_secs(60));
//! assert_eq!(outcome.expect_success(), "");
//! ```
//!
//! The root file system is a copy in the machine's memory: busybox, the tools
//! and programs named, their shared libraries, and kernel modules. The kernel
//! loads a module when something first asks for it, as on an installed system.
//! What the command prints arrives byte for byte, on a serial port of its own;
//! the console carries only the kernel's messages and the exit code.
//!
//! One machine runs at a time in a test program, so that time limits keep their
//! meaning. No machine outlives the thread that called [`Emulator::run`].

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use archive::Archive;
use modules::ModuleTree;

#[path = "emulator/archive.rs"]
mod archive;
#[path = "emulator/libraries.rs"]
mod libraries;
#[path = "emulator/machine.rs"]
mod machine;
#[path = "emulator/modules.rs"]
mod modules;
#[path = "emulator/static_build.rs"]
pub mod static_build;

pub use machine::Outcome;

/// What a multi-WAN router and its tests use. A star stands for any ending.
/// Every one is at hand in the machine; the kernel loads what it needs.
const MODULES_AT_HAND: &[&str] = &[
    "8021q",
    "act_connmark",
    "act_ctinfo",
    "act_mirred",
    "act_police",
    "bonding",
    "bridge",
    "br_netfilter",
    "cls_bpf",
    "cls_flower",
    "cls_fw",
    "cls_matchall",
    "cls_u32",
    "dummy",
    "gre",
    "ifb",
    "inet_diag",
    "ip_gre",
    "ip_set*",
    "ip_tables",
    "ip_tunnel",
    "ip6_gre",
    "ip6_tables",
    "ip6_tunnel",
    "ip6table_*",
    "ip6t_*",
    "ipip",
    "ipt_*",
    "iptable_*",
    "ipvlan",
    "macvlan",
    "nf_conncount",
    "nf_conntrack*",
    "nf_defrag_*",
    "nf_flow_table*",
    "nf_log_*",
    "nf_nat*",
    "nf_reject_*",
    "nf_socket_*",
    "nf_tables",
    "nf_tproxy_*",
    "nfnetlink*",
    "nft_*",
    "ppp_generic",
    "pppoe",
    "sch_*",
    "sit",
    "tap",
    "tcp_bbr",
    "tcp_diag",
    "tun",
    "udp_diag",
    "unix_diag",
    "veth",
    "vrf",
    "wireguard",
    "xt_*",
];

const QEMU: &str = "qemu-system-x86_64";

/// Directories where Debian keeps the tools of root and of everyone.
const TOOL_DIRECTORIES: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A machine that has not been started: a kernel, and what to put in its
/// memory.
#[derive(Clone)]
pub struct Emulator {
    qemu: PathBuf,
    kernel: PathBuf,
    module_tree: ModuleTree,
    archive: Archive,
    modules_to_load: Vec<String>,
}

/// Why the emulator cannot be used here.
#[derive(Debug)]
pub struct Skip {
    reason: String,
}

impl Emulator {
    /// Finds qemu, busybox and the kernel that `setup/kernel.sh` fetched.
    pub fn find() -> Result<Emulator, Skip> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Skip::because("the emulated kernel is for x86_64"));
        }
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/emulator");
        let kernel = fetched.join("vmlinuz");
        if !kernel.exists() {
            return Err(Skip::because("no kernel to boot: run setup/kernel.sh"));
        }
        let emulator = Emulator {
            qemu: find_tool(QEMU, "qemu-system-x86")?,
            kernel,
            module_tree: ModuleTree::open(&fetched.join("modules"))
                .map_err(|error| Skip::because(format!("unusable kernel modules: {error}")))?,
            archive: Archive::default(),
            modules_to_load: Vec::new(),
        };
        emulator.with_base_system()
    }

    /// Puts a program of ours at `destination`, with the shared libraries it
    /// needs if it is not statically linked.
    pub fn program(mut self, source: &Path, destination: &str) -> Emulator {
        self.add_program(source, destination);
        self
    }

    /// Puts a text or data file, not executable, at `destination`.
    pub fn file(mut self, destination: &str, contents: impl Into<Vec<u8>>) -> Emulator {
        self.archive.file(destination, 0o644, contents.into());
        self
    }

    /// Copies a tool of the host, its shared libraries, and the plugins and
    /// tables it reads. Takes precedence over busybox's applet of that name.
    pub fn tool(mut self, name: &str) -> Result<Emulator, Skip> {
        let path = find_tool(name, name)?;
        self.add_program(&path, &path.to_string_lossy());
        for directory in companions(name) {
            self.add_directory(Path::new(directory));
        }
        Ok(self)
    }

    /// Loads modules before the command runs: those that no use of them calls
    /// for by itself, like `nf_conntrack_ftp`, and those whose sysctls a
    /// command sets first, like `nf_conntrack`. Built-in ones may be named.
    pub fn modules(mut self, names: &[&str]) -> Emulator {
        self.modules_to_load.extend(names.iter().map(ToString::to_string));
        self
    }

    /// Boots, runs a shell command line as root and powers off. The time limit
    /// covers the boot too.
    pub fn run(&self, command_line: &str, time_limit: Duration) -> Outcome {
        let mut archive = self.archive.clone();
        self.add_modules(&mut archive);
        archive.file("/emulator/command", 0o644, command_line.into());
        machine::run(&self.qemu, &self.kernel, &archive, time_limit)
    }

    fn with_base_system(mut self) -> Result<Emulator, Skip> {
        let busybox = find_tool("busybox", "busybox-static")?;
        if !libraries::is_static(&busybox) {
            return Err(Skip::because("busybox is not static: install busybox-static"));
        }
        for applet in libraries::output_of(&busybox, ["--list"]).lines() {
            self.archive.symlink(&format!("/bin/{applet}"), "/bin/busybox");
        }
        // One of the applets is called busybox.
        self.add_program(&busybox, "/bin/busybox");
        // Busybox's shell prefers its applets to the tools in PATH.
        self.add_program(&find_tool("dash", "dash")?, "/bin/sh");
        self.archive.symlink("/sbin/modprobe", "/bin/busybox");
        self.archive.file("/init", 0o755, include_bytes!("emulator/init.sh").to_vec());
        for (destination, contents) in SYSTEM_FILES {
            self.archive.file(destination, 0o644, contents.as_bytes().to_vec());
        }
        Ok(self)
    }

    fn add_program(&mut self, source: &Path, destination: &str) {
        self.archive.file(destination, 0o755, read(source));
        for library in libraries::of(&[source]) {
            self.archive.file(&library.to_string_lossy(), 0o755, read(&library));
        }
    }

    /// Adds the files of a directory, if there is one, with what the shared
    /// libraries among them need.
    fn add_directory(&mut self, directory: &Path) {
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        let files: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        let plugins: Vec<&Path> = files
            .iter()
            .map(PathBuf::as_path)
            .filter(|path| path.extension() == Some(OsStr::new("so")))
            .collect();
        for path in files.iter().cloned().chain(libraries::of(&plugins)) {
            self.archive.file(&path.to_string_lossy(), 0o755, read(&path));
        }
    }

    fn add_modules(&self, archive: &mut Archive) {
        let mut wanted = self.module_tree.matching(MODULES_AT_HAND);
        for name in &self.modules_to_load {
            assert!(self.module_tree.has(name), "the emulated kernel has no module {name}");
            wanted.push(name.clone());
        }
        self.module_tree.add_to(archive, &wanted);
        archive.file("/emulator/modules", 0o644, self.modules_to_load.join(" ").into_bytes());
    }
}

/// What the C library and the tools look up. Like Debian's, but short.
const SYSTEM_FILES: &[(&str, &str)] = &[
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost emulator\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    (
        "/etc/protocols",
        "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\ngre 47 GRE\nipv6-icmp 58 IPv6-ICMP\n\
         sctp 132 SCTP\n",
    ),
    ("/etc/modprobe.d/none.conf", ""),
];

/// Directories of plugins and tables that a tool reads while it runs.
fn companions(tool: &str) -> &'static [&'static str] {
    match tool {
        _ if tool.starts_with("iptables") || tool.starts_with("ip6tables") => {
            &["/usr/lib/x86_64-linux-gnu/xtables"]
        }
        "ip" => &["/etc/iproute2", "/usr/share/iproute2"],
        "tc" => &["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/tc", "/usr/lib/x86_64-linux-gnu/tc"],
        _ => &[],
    }
}

fn find_tool(name: &str, package: &str) -> Result<PathBuf, Skip> {
    TOOL_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| Skip::because(format!("{name} is missing: install Debian's {package}")))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

impl Skip {
    fn because(reason: impl Into<String>) -> Skip {
        Skip { reason: reason.into() }
    }

    /// Says on the terminal, past the test runner's capture, that a test did
    /// not run. With `CI=true` on Debian, where it has to run, fails it.
    pub fn announce(&self) {
        let must_run =
            env::var("CI").is_ok_and(|ci| ci == "true") && Path::new("/etc/debian_version").exists();
        assert!(!must_run, "cannot skip in CI: {self}");
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(io::stderr(), "SKIPPED: {self}");
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}
