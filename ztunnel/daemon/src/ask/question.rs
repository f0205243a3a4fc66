//! A request to the admin endpoint: page and parameters.

#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(super) method: &'static str,
    path: &'static str,
    parameters: Vec<(&'static str, String)>,
}

impl Question {
    pub(crate) fn of(path: &'static str) -> Self {
        Self { method: "GET", path, parameters: Vec::new() }
    }

    /// It changes something.
    pub(super) fn to_change(path: &'static str) -> Self {
        Self { method: "POST", ..Self::of(path) }
    }

    /// Nothing is asked of what is not given.
    pub(crate) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.parameters.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn flag(self, name: &'static str, given: bool) -> Self {
        self.with(name, given.then_some(true))
    }

    /// As a table.
    pub(super) fn for_people(self, people: bool) -> Self {
        self.with("format", people.then_some("text"))
    }

    pub(super) fn writes(&self) -> bool {
        self.method != "GET"
    }

    pub(super) fn target(&self) -> String {
        let mut encoded = form_urlencoded::Serializer::new(String::new());
        encoded.extend_pairs(&self.parameters);
        match encoded.finish() {
            none if none.is_empty() => self.path.to_owned(),
            some => format!("{}?{some}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_not_asked_and_the_rest_is_encoded() {
        let question = Question::of("/workloads")
            .with("name", Some("a/b c&d"))
            .with("node", None::<&str>)
            .flag("x", false);
        assert_eq!(question.target(), "/workloads?name=a%2Fb+c%26d");
        assert_eq!(Question::of("/pods").target(), "/pods");
        assert_eq!(Question::of("/pods").for_people(true).target(), "/pods?format=text");
    }
}
