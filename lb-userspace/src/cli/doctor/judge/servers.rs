//! The way to each server, and what the running agent says.

use super::{
    super::facts::{AgentFacts, ServerFacts, Way},
    Finding,
};

pub(super) fn findings(servers: &[ServerFacts]) -> Vec<Finding> {
    let bad = servers.iter().filter_map(server);
    let known = servers.iter().filter(|server| server.way == Way::Known).count();
    let good = (known > 0).then(|| {
        Finding::good("servers", format!("the way to {known} of {} is known", servers.len()))
    });
    good.into_iter().chain(bad).collect()
}

fn server(server: &ServerFacts) -> Option<Finding> {
    let ServerFacts { name, address, way } = server;
    let (subject, ip) = (format!("server {name}"), address.ip());
    match way {
        Way::Known => None,
        Way::Unresolved(hop) => {
            let text = format!("{hop}, the next hop to {ip}, was not asked for its address yet");
            Some(Finding::notice(&subject, text, format!("ping -c 1 {ip}")))
        }
        Way::Failed(hop) => {
            let text = format!("{hop}, the next hop to {ip}, does not answer");
            Some(Finding::problem(&subject, text, format!("ip neigh show {hop}; ping -c 1 {ip}")))
        }
        Way::None(why) => {
            Some(Finding::problem(&subject, why.clone(), format!("ip route get {ip}")))
        }
    }
}

pub(super) fn agent(agent: &AgentFacts) -> Vec<Finding> {
    let status = match agent {
        AgentFacts::Unknown => return Vec::new(),
        AgentFacts::Silent(why) => {
            return vec![Finding::notice("agent", why.clone(), "systemctl start pointsman")];
        }
        AgentFacts::Answers(status) => status,
    };
    let running = format!("version {}, pid {}", status.agent.version, status.agent.pid);
    let mut findings = vec![Finding::good("agent", running)];
    findings.extend(status.datapath.apply_error.iter().map(|error| {
        let text = format!("the data plane is not up to date: {error}");
        Finding::problem("data plane", text, "pointsman status")
    }));
    let warnings = status.warnings.iter();
    findings.extend(warnings.map(|warning| Finding::notice("status", warning, "pointsman status")));
    findings
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Level,
            tests::{check, check_good},
        },
        *,
    };
    use crate::{
        admin::api::{AgentView, DatapathView, RulesView, StatusView},
        model::snapshot::AttachMode,
    };

    fn to(way: Way) -> ServerFacts {
        let address = "10.0.1.20:5432".parse().expect("an address");
        ServerFacts { name: "pg/pg1".into(), address, way }
    }

    #[test]
    fn a_server_that_can_not_be_reached_is_a_problem() {
        check_good(&findings(&[to(Way::Known)]));
        let (found, problem) = (|way| findings(&[to(Way::Known), to(way)]), Level::Problem);
        let hop = || "10.0.0.1".to_owned();
        let words = ["10.0.0.1", "does not answer", "ping -c 1 10.0.1.20"];
        check(&found(Way::Failed(hop())), problem, "server pg/pg1", &words);
        let none = Way::None("there is no route to 10.0.1.20".into());
        let words = ["no route", "ip route get 10.0.1.20"];
        check(&found(none), problem, "server pg/pg1", &words);
        check(&found(Way::Unresolved(hop())), Level::Notice, "server pg/pg1", &["ping"]);
    }

    #[test]
    fn what_the_agent_says_is_passed_on() {
        let mut status = StatusView {
            agent: AgentView {
                version: "1".into(),
                pid: 7,
                uptime_s: 0,
                configuration: String::new(),
                configured_at: String::new(),
                last_reload: None,
                access_log: None,
            },
            datapath: DatapathView {
                mode: AttachMode::Auto,
                pin_directory: String::new(),
                interfaces: Vec::new(),
                tables: Vec::new(),
                rules: RulesView::default(),
                syn_cookies: false,
                apply_error: None,
            },
            warnings: Vec::new(),
            vips: Vec::new(),
            frontends: Vec::new(),
            backends: Vec::new(),
        };
        check_good(&agent(&AgentFacts::Answers(Box::new(status.clone()))));
        status.datapath.apply_error = Some("there is no interface eth7".into());
        status.warnings.push("backend pg has no usable server".into());
        let found = agent(&AgentFacts::Answers(Box::new(status)));
        check(&found, Level::Problem, "data plane", &["eth7"]);
        check(&found, Level::Notice, "status", &["backend pg"]);
        let silent = agent(&AgentFacts::Silent("no agent answers".into()));
        check(&silent, Level::Notice, "agent", &["no agent answers", "systemctl start"]);
    }
}
