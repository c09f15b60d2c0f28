//! The commands of `docs/your-own.md`, run as they stand there, one block after the other.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::package::app;
use crate::support::{Directory, Host, Program, built, free_port, has, repository};

/// A folder like a clone of Waybill that was built, with two programs in place of the real ones.
/// `target/debug/waybill` adds a free port to `waybill local`, since two hosts on one machine cannot both have 7071.
/// `bin/cargo` does nothing for the two builds of the page: a real one has other features than these tests, and compiles for minutes.
struct Clone {
    folder: Directory,
    port: u16,
}

impl Clone {
    fn new() -> Self {
        let (folder, port) = (app(), free_port());
        copy(&repository().join("examples"), &folder.path().join("examples"));
        let waybill = env!("CARGO_BIN_EXE_waybill");
        let waybill = format!("[ \"$1\" = local ] && set -- \"$@\" --port {port}\nexec '{waybill}' \"$@\"");
        let cargo = "case \"$*\" in build | 'build --package own-work') ;; *) echo \"not expected: cargo $*\"; exit 1 ;; esac";
        for (path, text) in [("target/debug/waybill", waybill.as_str()), ("bin/cargo", cargo)] {
            let program = folder.write(path, &format!("#!/bin/sh\n{text}\n"));
            assert!(Command::new("chmod").arg("+x").arg(program).status().unwrap().success());
        }
        symlink(built("own-work"), folder.path().join("target/debug/own-work")).unwrap();
        Self { folder, port }
    }

    /// Types the block into a new terminal, in the clone's folder.
    fn run(&self, block: &str, on_path: &[&str], settings: &[(&str, &str)]) -> Program {
        let block = block.replace("localhost:7071", &format!("localhost:{}", self.port));
        let mut path: Vec<_> = on_path.iter().map(|name| self.folder.path().join(name)).collect();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command = Command::new("sh");
        command.args(["-euc", &block]).current_dir(self.folder.path()).process_group(0);
        Program::start(command.env_clear().env("PATH", std::env::join_paths(path).unwrap()).envs(settings.iter().copied()))
    }

    /// Does this while the block's host is up, and then ends all that the block has started.
    fn while_up<T>(&self, block: &str, on_path: &[&str], settings: &[(&str, &str)], act: impl FnOnce(&Host) -> T) -> T {
        let mut program = self.run(block, on_path, settings);
        let mut group = Group(program.id());
        let port = Host::wait(&mut program);
        let host = Host { program, port };
        let done = act(&host);
        group.signal("TERM");
        host.program.end();
        group.0 = 0;
        done
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join(path)).unwrap()).unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The processes of a terminal. What is left of them at the end of the test is killed.
struct Group(u32);

impl Group {
    fn signal(&self, name: &str) {
        Command::new("kill").args([&format!("-{name}"), "--", &format!("-{}", self.0)]).status().unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.0 > 0 {
            self.signal("KILL");
        }
    }
}

#[test]
fn each_command_of_the_page_does_what_the_page_says() {
    if !has("python3") || !has("curl") {
        return;
    }
    let page = std::fs::read_to_string(repository().join("docs/your-own.md")).unwrap();
    let blocks: Vec<_> = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [start, follow, new_app, own_work] = blocks[..] else {
        panic!("the page has {} blocks of commands, and each needs a step here", blocks.len())
    };
    let (clone, backend) = (Clone::new(), free_port().to_string());
    let port = ("PORT", backend.as_str());
    let completes = |host: &Host, order: &str| {
        let ended = host.ended(&host.submit(&clone.json(order)));
        assert_eq!(ended["status"], "completed", "{ended}");
    };

    clone.while_up(start, &["bin"], &[port, ("PAUSE", "0.1")], |host| {
        let (status, lines) = clone.run(follow, &[], &[]).end();
        assert!(status.success(), "{lines:?}");
        // What they show is a matter of time: the order may still be queued, or be tried again since the backend came up after the host.
        let shown: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [first, second] = &shown[..] else { panic!("{lines:?}") };
        assert_eq!(first["trackingId"], second["trackingId"]);
        let ended = host.ended(second["trackingId"].as_str().unwrap());
        assert_eq!(ended["result"]["file"], "Trees of 2026.pdf", "{ended}");
    });

    let url = format!("http://127.0.0.1:{backend}/work");
    let settings = [port, ("FULFILLMENT_URL", url.as_str())];
    clone.while_up(new_app, &["target/debug"], &settings, |host| completes(host, "render-reports/order.json"));

    clone.while_up(own_work, &["bin", "target/debug"], &[], |host| completes(host, "examples/report.json"));
}
