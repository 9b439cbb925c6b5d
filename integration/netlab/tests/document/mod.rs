//! The document of a cluster under test, and `wattle kafka` on it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use wattle_api::stream::Tls;
use wattle_netlab::kafka::cluster::{Cluster, Shape};
use wattle_netlab::mesh::binary;

/// A site whose partitions are to be led in one zone.
pub(crate) const SITE: &str = "site1";

/// The document of a cluster, in a file.
pub(crate) struct Document {
    path: PathBuf,
    servers: String,
    reach: String,
}

impl Document {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let reach = reach(cluster, Shape::ADMIN);
        let path = cluster.dir().join("desired.toml");
        let servers = cluster.document().unwrap();
        Self {
            path,
            servers,
            reach,
        }
    }

    /// The same with more, written.
    pub(crate) fn with(&self, desired: &str) -> Self {
        let document = Self {
            path: self.path.clone(),
            servers: self.servers.clone(),
            reach: self.reach.clone(),
        };
        document.write(desired);
        document
    }

    pub(crate) fn write(&self, desired: &str) {
        self.write_but(desired, "", "");
    }

    /// Writes it with another shape of the network's topics.
    pub(crate) fn write_but(&self, desired: &str, said: &str, instead: &str) {
        assert!(self.reach.contains(said));
        let reach = self.reach.replace(said, instead);
        fs::write(&self.path, format!("{reach}{desired}{}", self.servers)).unwrap();
    }

    /// Runs `wattle kafka VERB` and returns all it says.
    pub(crate) fn run(&self, verb: &str, options: &[&str], exit: i32) -> String {
        let output = Command::new(binary("wattle").unwrap())
            .args(["kafka", verb])
            .args(options)
            .arg(&self.path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(exit),
            "wattle kafka {verb} {options:?}:\n{text}"
        );
        text.into_owned()
    }
}

/// The section by which a user reaches the cluster.
pub(crate) fn reach(cluster: &Cluster, user: &str) -> String {
    let kafka = cluster.kafka(user);
    let protocol = kafka.protocol.name();
    let mut reach = format!(
        "[kafka]\nprotocol = \"{protocol}\"\nbrokers = {:?}\n[kafka.topics]\npartitions = 6\n",
        kafka.brokers
    );
    if let (Some(sasl), Some(tls)) = (&kafka.sasl, &kafka.tls) {
        let file = sasl.password_file.as_ref().unwrap();
        reach += &format!(
            "replication = {}\n[kafka.sasl]\nusername = \"{}\"\npassword_file = {file:?}\n{}",
            cluster.len(),
            sasl.username,
            tls_table(tls)
        );
    }
    reach
}

/// What should be in the secured cluster; with `role`, the users may do something.
pub(crate) fn users(cluster: &Cluster, role: &str) -> String {
    let password = cluster.add_password("wattle").unwrap();
    let (mirror, reader) = match role {
        "" => ("", ""),
        _ => ("role = \"mirror\"\n", "role = \"reader\"\n"),
    };
    let leaders = match cluster.len() {
        1 => String::new(),
        _ => format!("[desired.leaders]\n{SITE} = \"zone-2\"\n"),
    };
    format!(
        "[desired]\nnetwork = \"lab\"\n{leaders}\
         [[desired.users]]\nname = \"wattle\"\npassword_file = {password:?}\n{mirror}\
         [[desired.users]]\nname = \"eyes\"\n{reader}"
    )
}

pub(crate) fn tls_table(tls: &Tls) -> String {
    let mut text = "[kafka.tls]\n".to_owned();
    for (key, path) in [
        ("ca_file", &tls.ca_file),
        ("certificate_file", &tls.certificate_file),
        ("key_file", &tls.key_file),
    ] {
        if let Some(path) = path {
            text += &format!("{key} = {path:?}\n");
        }
    }
    text
}
