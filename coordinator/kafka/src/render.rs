//! The files that make servers into a cluster: `server.properties` and a script that formats the storage, per server.
//!
//! KRaft with a static quorum: the first three servers are controllers, too (the first alone where there are fewer than
//! three). With `sasl_ssl`, servers know each other by certificate, clients log in by SCRAM or by certificate, and the
//! name in a certificate is the user's name, so a user has the same rights either way.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use wattle_api::secret::{CREDENTIALS_DIRECTORY, SecretRef};

use crate::document::{Cluster, Document, Security, Server, User};

/// Copies that are kept where there are servers enough.
const COPIES: usize = 3;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its path below the output directory.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Its permission bits.
    pub mode: u32,
}

/// The files of all servers; none if the document has no table `cluster`.
pub fn render(document: &Document) -> Vec<Rendered> {
    let Some(cluster) = &document.cluster else {
        return Vec::new();
    };
    let files = cluster.brokers.iter().map(|server| {
        let directory = format!("broker-{}", server.id);
        let properties = Rendered {
            path: format!("{directory}/server.properties"),
            text: properties(cluster, server),
            mode: 0o644,
        };
        let script = Rendered {
            path: format!("{directory}/format.sh"),
            text: format_script(document, cluster, server),
            mode: 0o755,
        };
        [properties, script]
    });
    files.flatten().collect()
}

/// The cluster's id: the document's, or one that its servers' addresses decide.
pub fn cluster_id(cluster: &Cluster) -> String {
    if let Some(id) = &cluster.id {
        return id.clone();
    }
    let digest = Sha256::digest(voters(cluster).as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    // Without its first bit the text begins with a letter or digit: Kafka's tools take a dash for an option.
    id[0] &= 0x7f;
    URL_SAFE_NO_PAD.encode(id)
}

/// Lines of a properties file, in order; the last of two with the same key counts, and it alone is written.
#[derive(Default)]
struct Properties(Vec<(String, String)>);

impl Properties {
    fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some(entry) => entry.1 = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.0 {
            let _ = writeln!(text, "{key}={}", escaped(value));
        }
        text
    }
}

/// A value as Java reads it from a properties file.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for (at, c) in value.chars().enumerate() {
        match c {
            '\\' => text.push_str("\\\\"),
            ' ' if at == 0 => text.push_str("\\ "),
            ' '..='~' => text.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    text
}

fn properties(cluster: &Cluster, server: &Server) -> String {
    let mut properties = Properties::default();
    identity(cluster, server, &mut properties);
    listeners(cluster, server, &mut properties);
    copies(cluster, &mut properties);
    if let (Security::SaslSsl, Some(directory)) = (cluster.security, &cluster.tls_dir) {
        security(cluster, server, directory, &mut properties);
    }
    tiered(cluster, server, &mut properties);
    for (key, value) in &cluster.properties {
        properties.set(key, value.as_str());
    }
    let head = format!(
        "# Server {} of a cluster of {}.\n",
        server.id,
        cluster.brokers.len()
    );
    head + &properties.text()
}

fn identity(cluster: &Cluster, server: &Server, properties: &mut Properties) {
    let roles = if is_controller(cluster, server) {
        "broker,controller"
    } else {
        "broker"
    };
    properties.set("process.roles", roles);
    properties.set("node.id", server.id.to_string());
    if let Some(rack) = &server.rack {
        properties.set("broker.rack", rack.as_str());
        let nearest = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
        properties.set("replica.selector.class", nearest);
    }
    properties.set(
        "log.dirs",
        cluster.data_dir.replace("{id}", &server.id.to_string()),
    );
}

fn listeners(cluster: &Cluster, server: &Server, properties: &mut Properties) {
    let (clients, inside) = match cluster.security {
        Security::Plaintext => ("PLAINTEXT", "PLAINTEXT"),
        Security::SaslSsl => ("SASL_SSL", "SSL"),
    };
    let mut ports = vec![("CLIENTS", server.port), ("BROKERS", server.broker_port)];
    if cluster.security == Security::SaslSsl {
        ports.push(("CERTIFICATES", server.certificate_port));
    }
    if is_controller(cluster, server) {
        ports.push(("CONTROLLER", server.controller_port));
    }
    let listeners = ports
        .iter()
        .map(|(name, port)| format!("{name}://{}:{port}", server.host));
    properties.set("listeners", listeners.collect::<Vec<_>>().join(","));
    let protocols =
        format!("CLIENTS:{clients},CERTIFICATES:SSL,BROKERS:{inside},CONTROLLER:{inside}");
    properties.set("listener.security.protocol.map", protocols);
    properties.set("inter.broker.listener.name", "BROKERS");
    properties.set("controller.listener.names", "CONTROLLER");
    properties.set("controller.quorum.voters", voters(cluster));
}

/// How many copies there are of everything, and how many must be in step before a write counts: all but one.
fn copies(cluster: &Cluster, properties: &mut Properties) {
    let copies = COPIES.min(cluster.brokers.len());
    let in_step = copies.saturating_sub(1).max(1);
    for key in [
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
    ] {
        properties.set(key, copies.to_string());
    }
    for key in [
        "min.insync.replicas",
        "transaction.state.log.min.isr",
        "share.coordinator.state.topic.min.isr",
    ] {
        properties.set(key, in_step.to_string());
    }
    properties.set("unclean.leader.election.enable", "false");
    properties.set("auto.create.topics.enable", "false");
}

fn security(cluster: &Cluster, server: &Server, directory: &Path, properties: &mut Properties) {
    for (key, value) in stores(server, directory) {
        properties.set(key, value);
    }
    for listener in ["brokers", "controller", "certificates"] {
        properties.set(
            &format!("listener.name.{listener}.ssl.client.auth"),
            "required",
        );
    }
    // The name in a certificate, as "CN=name" or "CN=name,O=...", is the user's name.
    properties.set(
        "ssl.principal.mapping.rules",
        "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
    );
    properties.set("sasl.enabled.mechanisms", "SCRAM-SHA-512,SCRAM-SHA-256");
    for mechanism in ["scram-sha-512", "scram-sha-256"] {
        let key = format!("listener.name.clients.{mechanism}.sasl.jaas.config");
        let module = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        properties.set(&key, module);
    }
    let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
    properties.set("authorizer.class.name", authorizer);
    properties.set("allow.everyone.if.no.acl.found", "false");
    let servers = cluster
        .brokers
        .iter()
        .map(|server| format!("User:broker-{}", server.id));
    let admins = cluster.admins.iter().map(|name| format!("User:{name}"));
    let supers: Vec<String> = servers.chain(admins).collect();
    properties.set("super.users", supers.join(";"));
}

fn stores(server: &Server, directory: &Path) -> [(&'static str, String); 4] {
    let own = directory.join(format!("broker-{}.pem", server.id));
    [
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", own.display().to_string()),
        ("ssl.truststore.type", "PEM".to_owned()),
        (
            "ssl.truststore.location",
            directory.join("ca.pem").display().to_string(),
        ),
    ]
}

fn tiered(cluster: &Cluster, server: &Server, properties: &mut Properties) {
    let Some(storage) = &cluster.tiered else {
        return;
    };
    properties.set("remote.log.storage.system.enable", "true");
    properties.set(
        "remote.log.storage.manager.class.name",
        storage.class.as_str(),
    );
    if let Some(path) = &storage.class_path {
        properties.set("remote.log.storage.manager.class.path", path.as_str());
    }
    for (key, value) in &storage.properties {
        properties.set(&format!("rsm.config.{key}"), value.as_str());
    }
    properties.set("remote.log.metadata.manager.listener.name", "BROKERS");
    let copies = COPIES.min(cluster.brokers.len());
    properties.set(
        "rlmm.config.remote.log.metadata.topic.replication.factor",
        copies.to_string(),
    );
    // The clients by which servers tell each other where segments are log in as the servers do.
    if let (Security::SaslSsl, Some(directory)) = (cluster.security, &cluster.tls_dir) {
        for (key, value) in stores(server, directory) {
            let key = format!("rlmm.config.remote.log.metadata.common.client.{key}");
            properties.set(&key, value);
        }
    }
}

fn voters(cluster: &Cluster) -> String {
    let controllers = cluster
        .brokers
        .iter()
        .filter(|server| is_controller(cluster, server));
    let voters = controllers
        .map(|server| format!("{}@{}:{}", server.id, server.host, server.controller_port));
    voters.collect::<Vec<_>>().join(",")
}

fn is_controller(cluster: &Cluster, server: &Server) -> bool {
    let count = if cluster.brokers.len() < 3 { 1 } else { 3 };
    cluster
        .brokers
        .iter()
        .take(count)
        .any(|known| known.id == server.id)
}

fn format_script(document: &Document, cluster: &Cluster, server: &Server) -> String {
    let mut text = format!(
        "#!/bin/sh\n\
         # Formats the storage of server {}, once; what is formatted stays as it is. KAFKA_STORAGE is Kafka's tool.\n\
         set -eu\n\
         here=$(cd \"$(dirname \"$0\")\" && pwd)\n\
         exec ${{KAFKA_STORAGE:-kafka-storage.sh}} format --ignore-formatted \\\n  \
         --cluster-id {} --config \"$here/server.properties\"",
        server.id,
        cluster_id(cluster),
    );
    let users = &document.desired.users;
    for user in users
        .iter()
        .filter(|user| cluster.admins.contains(&user.name))
    {
        if let Some(password) = user.password() {
            let _ = write!(
                text,
                " \\\n  --add-scram {}",
                scram_argument(user, &password)
            );
        }
    }
    text + "\n"
}

/// The argument that makes a user while formatting. The shell reads the password, the script does not have it.
fn scram_argument(user: &User, password: &SecretRef) -> String {
    let password = match password {
        SecretRef::File(path) => format!("$(cat {})", quoted(&path.display().to_string())),
        SecretRef::Variable(name) => format!("${{{name}:?}}"),
        SecretRef::Credential(name) => {
            format!("$(cat \"${{{CREDENTIALS_DIRECTORY}:?}}\"/{})", quoted(name))
        }
    };
    let mechanism = user.mechanism.name();
    let start = format!(
        "{mechanism}=[name={},iterations={},password=",
        user.name, user.iterations
    );
    format!("{}\"{password}\"']'", quoted(&start))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"
        [desired]
        users = [
          { name = "admin", password_file = "/etc/kafka/it's.password" },
          { name = "root", password_env = "ROOT_PASSWORD", mechanism = "scram-sha-256" },
          { name = "nobody", password_file = "/etc/nobody" },
        ]
        [cluster]
        security = "sasl_ssl"
        data_dir = "/var/lib/kafka/{id}"
        tls_dir = "/etc/kafka/tls"
        admins = ["admin", "root"]
        [cluster.properties]
        "unclean.leader.election.enable" = "true"
        "log.cleaner.backoff.ms" = "500"
        [[cluster.brokers]]
        id = 1
        host = "k1"
        rack = "a"
        [[cluster.brokers]]
        id = 2
        host = "k2"
        rack = "b"
        [[cluster.brokers]]
        id = 3
        host = "k3"
        rack = "c"
        [[cluster.brokers]]
        id = 4
        host = "k4"
        rack = "a"
    "#;

    fn files(document: &str) -> Vec<Rendered> {
        render(&Document::parse(document.as_bytes()).unwrap())
    }

    fn file(document: &str, path: &str) -> String {
        let mut files = files(document).into_iter();
        files.find(|file| file.path == path).unwrap().text
    }

    #[test]
    fn every_server_has_its_properties_and_its_script() {
        let paths: Vec<String> = files(DOCUMENT).into_iter().map(|file| file.path).collect();
        assert_eq!(paths.len(), 8);
        assert_eq!(
            paths[..2],
            ["broker-1/server.properties", "broker-1/format.sh"]
        );
        let one = file(DOCUMENT, "broker-1/server.properties");
        for line in [
            "process.roles=broker,controller",
            "broker.rack=a",
            "log.dirs=/var/lib/kafka/1",
            "controller.quorum.voters=1@k1:9095,2@k2:9095,3@k3:9095",
            "listeners=CLIENTS://k1:9092,BROKERS://k1:9094,CERTIFICATES://k1:9093,CONTROLLER://k1:9095",
            "min.insync.replicas=2",
            "ssl.keystore.location=/etc/kafka/tls/broker-1.pem",
            "super.users=User:broker-1;User:broker-2;User:broker-3;User:broker-4;User:admin;User:root",
            "unclean.leader.election.enable=true",
            "log.cleaner.backoff.ms=500",
        ] {
            assert!(
                one.lines().any(|found| found == line),
                "{line} is not in\n{one}"
            );
        }
        assert_eq!(one.matches("unclean.leader").count(), 1);
        let four = file(DOCUMENT, "broker-4/server.properties");
        assert!(four.contains("process.roles=broker\n") && !four.contains("CONTROLLER://"));
    }

    #[test]
    fn no_password_stands_in_a_file_and_only_administrators_are_made() {
        let script = file(DOCUMENT, "broker-1/format.sh");
        let lines = [
            r#"  --add-scram 'SCRAM-SHA-512=[name=admin,iterations=8192,password='"$(cat '/etc/kafka/it'\''s.password')"']' \"#,
            r#"  --add-scram 'SCRAM-SHA-256=[name=root,iterations=8192,password='"${ROOT_PASSWORD:?}"']'"#,
        ];
        for line in lines {
            assert!(script.lines().any(|found| found == line), "{script}");
        }
        assert!(!script.contains("nobody"));
    }

    #[test]
    fn the_id_of_a_cluster_depends_on_its_servers_alone() {
        let id =
            |text: &str| cluster_id(&Document::parse(text.as_bytes()).unwrap().cluster.unwrap());
        let first = id(DOCUMENT);
        assert_eq!(first.len(), 22);
        assert_eq!(first, id(&DOCUMENT.replace("log.cleaner", "log.clean")));
        assert_ne!(first, id(&DOCUMENT.replace("\"k2\"", "\"k5\"")));
    }

    #[test]
    fn java_reads_back_what_is_written() {
        assert_eq!(escaped(r" a\b c"), r"\ a\\b c");
        assert_eq!(escaped("ü😀\n"), r"\u00fc\ud83d\ude00\u000a");
    }
}
