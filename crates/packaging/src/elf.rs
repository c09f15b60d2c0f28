//! Whether a file is a binary that Azure can start: ELF, for the right processor, and whole by itself.

use object::Endianness;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use crate::arch::Arch;

/// Says why `binary` cannot run on a bare `arch` Linux; `Ok` if it can.
///
/// An interpreter or a needed library ties the binary to the glibc of the machine that built it, and Azure's may be older: the handler
/// would then not start, and says that a version of GLIBC was not found in a log that only Azure sees.
pub fn check(binary: &[u8], arch: Arch) -> Result<(), String> {
    let header = FileHeader64::<Endianness>::parse(binary).map_err(|_| "it is no 64-bit ELF file, so Linux cannot start it".to_owned())?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    let machine = header.e_machine(endian);
    if machine != arch.elf_machine() {
        let found = Arch::ALL.into_iter().find(|other| machine == other.elf_machine());
        let found = found.map_or_else(|| format!("the ELF machine {machine:?}"), |other| other.to_string());
        return Err(format!("it is built for {found}, not for {arch}"));
    }
    if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
        return Err("it is an object file, not a program".into());
    }
    let segments = header.program_headers(endian, binary).map_err(|error| error.to_string())?;
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(endian, binary).map_err(|error| error.to_string())? {
            let interpreter = String::from_utf8_lossy(interpreter);
            return Err(format!(
                "it needs {interpreter} of the machine it runs on, and Azure's may be an older one: build it for {}",
                arch.target()
            ));
        }
        for entry in segment.dynamic(endian, binary).map_err(|error| error.to_string())?.into_iter().flatten() {
            if entry.tag(endian) == elf::DT_NEEDED {
                return Err(format!("it needs a shared library of the machine it runs on: build it for {}", arch.target()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_test_needs_an_interpreter_and_is_refused() {
        let binary = std::fs::read(std::env::current_exe().expect("a path")).expect("it is readable");
        let arch = Arch::ALL.into_iter().find(|arch| arch.runs_here());

        let Some(arch) = arch else { return };
        assert!(check(&binary, arch).expect_err("glibc").contains("Azure's may be an older one"));
        let other = Arch::ALL.into_iter().find(|other| *other != arch).expect("there are two");
        assert_eq!(check(&binary, other).expect_err("another processor"), format!("it is built for {arch}, not for {other}"));
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01\x01"] {
            assert!(check(bytes, Arch::X86_64).expect_err("no ELF").contains("no 64-bit ELF"), "{bytes:?}");
        }
    }

    #[test]
    fn a_cut_off_file_is_an_error_and_no_panic() {
        let binary = std::fs::read(std::env::current_exe().expect("a path")).expect("it is readable");
        for length in [64, 65, 120, 400, 1000] {
            assert!(check(&binary[..length], Arch::X86_64).is_err(), "{length}");
        }
    }
}
