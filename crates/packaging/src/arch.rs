//! Processors that Azure Functions runs on.

use std::fmt;

use object::{Architecture, elf};

/// A processor, and what its binaries are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Every plan of Azure Functions.
    X86_64,
    /// Containers; Flex Consumption has no such machines.
    Aarch64,
}

impl Arch {
    /// Every processor that a package can be made for.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

    /// Its name in `--arch`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// The target of the Rust compiler whose binaries need nothing of the system: musl, static.
    pub fn target(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64-unknown-linux-musl",
            Arch::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Whether a binary for this processor runs on this machine.
    pub fn runs_here(self) -> bool {
        cfg!(target_os = "linux") && std::env::consts::ARCH == self.name()
    }

    /// `e_machine` of an ELF file.
    pub(crate) fn elf_machine(self) -> elf::Machine {
        match self {
            Arch::X86_64 => elf::EM_X86_64,
            Arch::Aarch64 => elf::EM_AARCH64,
        }
    }

    pub(crate) fn object(self) -> Architecture {
        match self {
            Arch::X86_64 => Architecture::X86_64,
            Arch::Aarch64 => Architecture::Aarch64,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
