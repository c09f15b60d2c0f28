//! One order walks from POST to completed.

use crate::support::{Directory, Host, Program, eventually, order, repository, request, try_request};

#[test]
fn an_order_is_accepted_processed_and_shown() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let accepted = host.post("/api/orders", &order("A-1"));
    let body = accepted.json();
    let status_url = body["statusUrl"].as_str().unwrap();
    let ended = host.ended(body["trackingId"].as_str().unwrap());

    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.headers["location"], status_url);
    assert_eq!(accepted.headers["content-type"], "application/json; charset=utf-8");
    assert!(status_url.starts_with(&format!("http://127.0.0.1:{}/api/orders/", host.port)), "{status_url}");
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["progress"], 100);
    assert_eq!(ended["result"]["total"], "53.16");
}

#[test]
fn any_concurrency_in_host_json_processes_orders() {
    for calls in ["1", "2000000000", "9000000000000000000"] {
        let data = Directory::new();
        let host = Host::start(data.path(), &[("AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls", calls)]);

        let tracking_id = host.submit(&order("CONCURRENCY-1"));

        assert_eq!(host.ended(&tracking_id)["status"], "completed", "{calls}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_handler_behind_a_script_ends_with_its_host() {
    let data = Directory::new();
    let script = data.write("wrapper.sh", &format!("#!/bin/sh\n\"{}\" \"$@\"\nexit 1\n", env!("CARGO_BIN_EXE_waybill")));
    assert!(std::process::Command::new("chmod").arg("755").arg(&script).status().unwrap().success());
    let host = Host::with(repository(), data.path(), &["--handler", script.to_str().unwrap()], &[]);
    let handler = host.figures()["handlerPort"].as_u64().unwrap();
    let url = format!("http://127.0.0.1:{handler}/healthz");
    assert_eq!(request("GET", &url, &[], None).status, 200);

    host.program.signal("INT");
    let (status, _) = host.program.end();

    assert!(status.success());
    eventually("the handler is gone", || try_request("GET", &url, &[], None).is_err().then_some(()));
}

#[test]
fn the_demo_takes_no_setting_from_the_environment() {
    let production = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    production.set_nonblocking(true).unwrap();
    let url = format!("http://{}/", production.local_addr().unwrap());
    let settings = [
        ("FULFILLMENT_URL", url.as_str()),
        ("CosmosConnection__accountEndpoint", url.as_str()),
        ("ServiceBusConnection", "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=root;SharedAccessKey=c2VjcmV0"),
        ("AUTH_ISSUER", url.as_str()),
        ("AUTH_AUDIENCE", "shop"),
        ("AzureFunctionsJobHost__functionTimeout", "00:00:01"),
    ];
    // No setting, and where it is emptied no client can be made.
    let certificates = "/etc/ssl/certs/ca-certificates.crt";
    let certificates = std::path::Path::new(certificates).exists().then_some(("SSL_CERT_FILE", certificates));
    let settings: Vec<_> = settings.into_iter().chain(certificates).collect();

    let (status, lines) = Program::waybill(&["demo"], &settings).end();

    assert!(status.success(), "{lines:?}");
    assert!(production.accept().is_err(), "nothing asked there");
}

/// A demo behind a firewall that opens TLS connections needs them, and one without them runs as well.
#[cfg(target_os = "linux")]
#[test]
fn the_demo_hands_its_handler_where_certificates_are() {
    let certificates = [("SSL_CERT_FILE", "/nowhere/certificates.pem"), ("SSL_CERT_DIR", "/nowhere/certificates")];
    for (name, value) in certificates {
        let demo = Program::waybill(&["demo"], &[(name, value)]);

        let handed = eventually("its handler runs", || {
            let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", demo.id())).ok();
            let of_threads = std::fs::read_dir(format!("/proc/{}/task", demo.id()))
                .ok()?
                .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
            let all: Vec<String> = children
                .into_iter()
                .chain(of_threads)
                .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .collect();
            all.iter().find_map(|child| {
                let command = std::fs::read(format!("/proc/{child}/cmdline")).ok()?;
                let is_handler = command.split(|byte| *byte == 0).any(|argument| argument == b"serve");
                is_handler.then(|| std::fs::read(format!("/proc/{child}/environ")).ok()).flatten().filter(|text| !text.is_empty())
            })
        });

        let wanted = format!("{name}={value}");
        assert!(handed.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()), "{wanted}");
    }
}
