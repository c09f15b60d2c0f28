//! ASP.NET route templates: how the host reads one, and which requests it matches
//! (`RoutePatternParser.cs` and `RoutePatternMatcher.cs` of ASP.NET Core).

mod constraint;
mod date_time;
mod pattern;

use std::iter::Peekable;
use std::str::CharIndices;

use constraint::Constraint;

/// Route values in the order in which the host finds them; a parameter that the path leaves out is `None`.
pub type Params = Vec<(String, Option<String>)>;

/// A route of a function.
#[derive(Debug, Clone)]
pub struct Route {
    /// Name of the function.
    pub function: String,
    /// Whether the function is switched off: its requests are 404, and later functions do not get them.
    pub disabled: bool,
    /// Template with the route prefix.
    pub template: Template,
    /// Methods of the function in any case; `None` is every method.
    pub methods: Option<Vec<String>>,
}

impl Route {
    /// The route values if this route gets a request; `path` is decoded and begins with a slash.
    pub fn matches(&self, path: &str, method: &str) -> Option<Params> {
        if self.allows(method) { self.template.matches(path) } else { None }
    }

    /// Why no request gets to this route, which `earlier` ones come before.
    pub fn never_reached<'r>(&self, mut earlier: impl Iterator<Item = &'r Self>) -> Option<String> {
        let methods = self.methods.as_deref();
        if methods.is_some_and(<[_]>::is_empty) {
            return Some(format!("{} is never reached: methods in its function.json is an empty list", self.function));
        }
        if let Some(constraint) = self.template.dead_constraint() {
            return Some(format!("{} is never reached: the constraint {constraint} of its route cannot be read", self.function));
        }
        let hides = |first: &&Self| {
            let all = methods.map_or(first.methods.is_none(), |methods| methods.iter().all(|method| first.allows(method)));
            all && first.template.covers(&self.template)
        };
        earlier.find(hides).map(|first| format!("{} is never reached: {} comes first", self.function, first.function))
    }

    fn allows(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|allowed| allowed.eq_ignore_ascii_case(method)))
    }
}

/// A parsed route with its prefix: what the host joins before it parses.
#[derive(Debug, Clone)]
pub struct Template {
    segments: Vec<Segment>,
}

/// Reason why the host cannot read a template, and the place of the mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Number of characters before the mistake in the text that was parsed.
    pub at: usize,
    /// Change needed in the template.
    pub reason: String,
}

#[derive(Debug, Clone)]
struct Segment {
    /// One part, or several of which no two neighbours are parameters.
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    /// The period before an optional parameter, which goes when the parameter goes.
    Separator,
    Parameter(Parameter),
}

#[derive(Debug, Clone)]
struct Parameter {
    name: String,
    kind: Kind,
    default: Option<String>,
    constraints: Vec<Constraint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Required,
    Optional,
    CatchAll,
}

impl Template {
    /// Parses a template such as `api/orders/{id:guid}/{section?}`, or `api/files/{name}.{extension?}`.
    pub fn parse(template: &str) -> Result<Self, Unreadable> {
        let text = template.strip_prefix("~/").or_else(|| template.strip_prefix('/')).unwrap_or(template);
        let skipped = template.chars().count() - text.chars().count();
        Parser::of(text).template().map_err(|Unreadable { at, reason }| Unreadable { at: at + skipped, reason })
    }

    /// Matches a decoded path that begins with a slash.
    ///
    /// Names match without regard to case and one trailing slash is ignored; an empty segment matches nothing.
    pub fn matches(&self, path: &str) -> Option<Params> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let mut params = Params::new();
        let mut rest = (!path.is_empty()).then_some(path);
        for segment in &self.segments {
            let Some(text) = rest else {
                segment.omitted(&mut params)?;
                continue;
            };
            let (here, after) = match text.split_once('/') {
                Some((here, after)) => (here, (!after.is_empty()).then_some(after)),
                None => (text, None),
            };
            if here.is_empty() {
                return None;
            }
            if let Some(parameter) = segment.catch_all() {
                params.push((parameter.name.clone(), Some(text.to_owned())));
                rest = None;
            } else {
                segment.matches(here, &mut params)?;
                rest = after;
            }
        }
        if rest.is_some() || !self.parameters().all(|parameter| parameter.accepts(&params)) {
            return None;
        }
        for parameter in self.parameters().filter(|parameter| parameter.kind == Kind::Optional) {
            if !params.iter().any(|(name, _)| name.eq_ignore_ascii_case(&parameter.name)) {
                params.push((parameter.name.clone(), None));
            }
        }
        Some(params)
    }

    /// Whether every path that `later` matches is matched by this template. May miss some that are.
    pub fn covers(&self, later: &Self) -> bool {
        let mut others = later.segments.iter();
        for segment in &self.segments {
            if let Some(parameter) = segment.catch_all() {
                return parameter.constraints.is_empty();
            }
            let covered = match others.next() {
                Some(other) => segment.covers(other),
                None => matches!(segment.simple(), Some(parameter) if parameter.constraints.is_empty() && parameter.may_be_absent()),
            };
            if !covered {
                return false;
            }
        }
        others.next().is_none()
    }

    /// The first constraint that the host cannot read although it starts, so that the template never matches.
    pub fn dead_constraint(&self) -> Option<&str> {
        self.parameters().flat_map(|parameter| &parameter.constraints).find(|constraint| constraint.is_dead()).map(Constraint::text)
    }

    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.segments.iter().flat_map(|segment| &segment.parts).filter_map(Part::parameter)
    }
}

impl Segment {
    /// The parameter that fills the segment.
    fn simple(&self) -> Option<&Parameter> {
        match &self.parts[..] {
            [Part::Parameter(parameter)] => Some(parameter),
            _ => None,
        }
    }

    fn catch_all(&self) -> Option<&Parameter> {
        self.simple().filter(|parameter| parameter.kind == Kind::CatchAll)
    }

    /// Matches one segment of a path, which is not empty.
    fn matches(&self, text: &str, params: &mut Params) -> Option<()> {
        match &self.parts[..] {
            [Part::Literal(literal)] => same_text(literal, text).then_some(()),
            [Part::Parameter(parameter)] => {
                params.push((parameter.name.clone(), Some(text.to_owned())));
                Some(())
            }
            parts => {
                let text: Vec<char> = text.chars().collect();
                let found = match parts {
                    [before @ .., Part::Separator, Part::Parameter(_)] => backwards(parts, parts.len(), &text)
                        .or_else(|| (text.last() != Some(&'.')).then(|| backwards(parts, before.len(), &text)).flatten()),
                    parts => backwards(parts, parts.len(), &text),
                };
                params.extend(found?);
                Some(())
            }
        }
    }

    /// Records the value of a segment that the path leaves out, if the template allows that.
    fn omitted(&self, params: &mut Params) -> Option<()> {
        let parameter = self.simple().filter(|parameter| parameter.may_be_absent())?;
        if parameter.kind == Kind::CatchAll || parameter.default.is_some() {
            params.push((parameter.name.clone(), parameter.default.clone()));
        }
        Some(())
    }

    fn covers(&self, other: &Self) -> bool {
        match (&self.parts[..], &other.parts[..]) {
            ([Part::Literal(one)], [Part::Literal(two)]) => same_text(one, two),
            ([Part::Parameter(parameter)], [Part::Literal(literal)]) => {
                parameter.constraints.iter().all(|constraint| constraint.accepts(Some(literal)))
            }
            ([Part::Parameter(parameter)], [Part::Parameter(other)]) => {
                let absent = other.kind != Kind::CatchAll && (parameter.may_be_absent() || !other.may_be_absent());
                absent && parameter.constraints.iter().all(|one| other.constraints.iter().any(|two| one.text() == two.text()))
            }
            ([Part::Parameter(parameter)], _) => parameter.constraints.is_empty(),
            _ => false,
        }
    }
}

/// Matches the first `used` parts of a segment from their end: each literal as far right as possible, and a parameter takes what lies
/// between.
///
/// A parameter has at least one character. The values come in the order in which they are found, the last first.
fn backwards(parts: &[Part], used: usize, text: &[char]) -> Option<Params> {
    let mut values = Params::new();
    let mut end = text.len();
    let mut pending: Option<&Parameter> = None;
    for (place, part) in parts[..used].iter().enumerate().rev() {
        let literal: Vec<char> = match part {
            Part::Parameter(parameter) => {
                pending = Some(parameter);
                continue;
            }
            Part::Literal(literal) => literal.chars().collect(),
            Part::Separator => vec!['.'],
        };
        let room = end.checked_sub(usize::from(pending.is_some())).filter(|room| *room > 0)?;
        let start = (0..=room.checked_sub(literal.len())?)
            .rev()
            .find(|start| literal.iter().zip(&text[*start..]).all(|(one, two)| fold(*one) == fold(*two)))?;
        let after = start + literal.len();
        if place + 1 == parts.len() && after != text.len() {
            return None;
        }
        if let Some(parameter) = pending.take() {
            values.push(parameter.take(&text[after..end])?);
        }
        end = start;
    }
    match pending {
        Some(parameter) => values.push(parameter.take(&text[..end])?),
        None if end > 0 => return None,
        None => {}
    }
    Some(values)
}

impl Part {
    fn parameter(&self) -> Option<&Parameter> {
        match self {
            Self::Parameter(parameter) => Some(parameter),
            Self::Literal(_) | Self::Separator => None,
        }
    }
}

impl Parameter {
    /// Parses the text between the braces: `*rest`, `id:int:min(1)`, `page=1`, `section?`.
    fn parse(text: &str) -> Result<Self, String> {
        let (inner, catch_all) = match text.strip_prefix('*') {
            Some(rest) => (rest.strip_prefix('*').unwrap_or(rest), true),
            None => (text, false),
        };
        let (inner, optional) = match inner.strip_suffix('?') {
            Some(inner) => (inner, true),
            None => (inner, false),
        };
        // A name may begin with `:` or `=`.
        let first = inner.chars().next().map_or(0, char::len_utf8);
        let name_end = inner[first..].find([':', '=']).map_or(inner.len(), |at| first + at);
        let (name, rest) = inner.split_at(name_end);
        let (constraints, default) = split_constraints(rest);
        if catch_all && optional {
            return Err("a catch-all parameter cannot be optional".to_owned());
        }
        if optional && default.is_some() {
            return Err(format!("the parameter '{name}' cannot be optional and have a default"));
        }
        if name.is_empty() || name.contains(['/', '{', '}', '?', '*']) {
            return Err(format!("'{name}' is not a parameter name"));
        }
        Ok(Self {
            name: name.to_owned(),
            kind: match (catch_all, optional) {
                (true, _) => Kind::CatchAll,
                (false, true) => Kind::Optional,
                (false, false) => Kind::Required,
            },
            default: default.map(str::to_owned),
            constraints: constraints.into_iter().map(Constraint::parse).collect::<Result<_, _>>()?,
        })
    }

    fn may_be_absent(&self) -> bool {
        self.kind != Kind::Required || self.default.is_some()
    }

    fn take(&self, text: &[char]) -> Option<(String, Option<String>)> {
        (!text.is_empty()).then(|| (self.name.clone(), Some(text.iter().collect())))
    }

    /// Whether the value that was found meets every constraint. An optional parameter without a value meets all.
    fn accepts(&self, params: &Params) -> bool {
        let value = params.iter().find(|(name, _)| name.eq_ignore_ascii_case(&self.name)).map(|(_, value)| value.as_deref());
        match value {
            None if self.kind == Kind::Optional => true,
            value => self.constraints.iter().all(|constraint| constraint.accepts(value.flatten())),
        }
    }
}

/// Splits `:int:min(1)=5` into its constraints and the default.
///
/// A parenthesis ends only before a colon, an equals sign or the end, so that a regular expression may contain them.
fn split_constraints(text: &str) -> (Vec<&str>, Option<&str>) {
    let mut constraints = Vec::new();
    let mut rest = text;
    while let Some(constraint) = rest.strip_prefix(':') {
        let length = constraint_length(constraint);
        let (constraint, after) = constraint.split_at(length);
        if !constraint.is_empty() {
            constraints.push(constraint);
        }
        rest = after;
    }
    (constraints, rest.strip_prefix('='))
}

fn constraint_length(text: &str) -> usize {
    let delimiter = |at: usize| text[at..].starts_with([':', '=']);
    let Some(open) = text.find(['(', ':', '=']).filter(|at| text[*at..].starts_with('(')) else {
        return text.find([':', '=']).unwrap_or(text.len());
    };
    let mut at = open + 1;
    while let Some(next) = text[at..].find([')', ':', '=']) {
        let found = at + next;
        at = found + 1;
        if delimiter(found) {
            // A delimiter inside parentheses that are closed later is part of the argument.
            match text[at..].find(')') {
                Some(close) => at += close + 1,
                None => return found,
            }
        } else if at == text.len() || delimiter(at) {
            return at;
        }
    }
    text.len()
}

struct Parser<'t> {
    chars: Peekable<CharIndices<'t>>,
    text: &'t str,
    names: Vec<String>,
}

impl<'t> Parser<'t> {
    fn of(text: &'t str) -> Self {
        Self { chars: text.char_indices().peekable(), text, names: Vec::new() }
    }

    fn template(mut self) -> Result<Template, Unreadable> {
        let mut segments: Vec<Segment> = Vec::new();
        while let Some((at, character)) = self.chars.peek().copied() {
            if segments.last().is_some_and(|last| last.catch_all().is_some()) {
                return Err(self.unreadable(at, "a catch-all parameter must be the last segment"));
            }
            if character == '/' {
                return Err(self.unreadable(at, "two slashes in a row"));
            }
            segments.push(self.segment(at)?);
            // The slash that ended the segment.
            self.chars.next();
        }
        Ok(Template { segments })
    }

    fn segment(&mut self, start: usize) -> Result<Segment, Unreadable> {
        let mut parts = Vec::new();
        while let Some((at, character)) = self.chars.peek().copied().filter(|(_, character)| *character != '/') {
            let is_parameter = character == '{' && !self.text[at + 1..].starts_with('{');
            parts.push(if is_parameter { self.parameter(at)? } else { self.literal(at)? });
        }
        let error = |reason: &str| self.unreadable(start, reason);
        let several = parts.len() > 1;
        for place in 0..parts.len() {
            let Some(Parameter { kind, .. }) = parts[place].parameter() else { continue };
            match kind {
                _ if place > 0 && parts[place - 1].parameter().is_some() => return Err(error("two parameters without text between them")),
                Kind::CatchAll if several => return Err(error("a catch-all parameter must fill its segment")),
                Kind::Optional if several && place + 1 < parts.len() => return Err(error("an optional parameter must end its segment")),
                Kind::Optional if several => match &mut parts[place - 1] {
                    Part::Literal(literal) if literal == "." => parts[place - 1] = Part::Separator,
                    _ => return Err(error("an optional parameter may follow only a period")),
                },
                _ => {}
            }
        }
        Ok(Segment { parts })
    }

    /// Text up to a slash or a parameter; a doubled brace is one brace.
    fn literal(&mut self, start: usize) -> Result<Part, Unreadable> {
        let mut literal = String::new();
        while let Some((at, character)) = self.chars.peek().copied() {
            let doubled = self.text[at + character.len_utf8()..].starts_with(character);
            match character {
                '/' => break,
                '{' if !doubled && at + 1 < self.text.len() => break,
                '{' | '}' if !doubled => return Err(self.unreadable(at, "a brace without its other half")),
                '{' | '}' => {
                    self.chars.next();
                }
                '?' => return Err(self.unreadable(at, "a question mark outside a parameter")),
                _ => {}
            }
            self.chars.next();
            literal.push(character);
        }
        debug_assert!(!literal.is_empty(), "no progress at {start}");
        Ok(Part::Literal(literal))
    }

    fn parameter(&mut self, start: usize) -> Result<Part, Unreadable> {
        let mut inner = String::new();
        self.chars.next();
        loop {
            match self.chars.next() {
                None => return Err(self.unreadable(start, "a parameter without its closing brace")),
                Some((at, '{')) => {
                    if self.chars.next_if(|(_, next)| *next == '{').is_none() {
                        return Err(self.unreadable(at, "a brace inside a parameter must be doubled"));
                    }
                    inner.push('{');
                }
                Some((_, '}')) => {
                    if self.chars.next_if(|(_, next)| *next == '}').is_none() {
                        break;
                    }
                    inner.push('}');
                }
                Some((_, character)) => inner.push(character),
            }
        }
        let parameter = Parameter::parse(&inner).map_err(|reason| self.unreadable(start, &reason))?;
        let name = parameter.name.to_lowercase();
        if self.names.contains(&name) {
            return Err(self.unreadable(start, &format!("the parameter '{}' appears twice", parameter.name)));
        }
        self.names.push(name);
        Ok(Part::Parameter(parameter))
    }

    fn unreadable(&self, at: usize, reason: &str) -> Unreadable {
        Unreadable { at: self.text[..at].chars().count(), reason: reason.to_owned() }
    }
}

/// A character in capitals where those are one character, as .NET compares without regard to culture and case.
fn fold(character: char) -> char {
    let mut capitals = character.to_uppercase();
    match (capitals.next(), capitals.next()) {
        (Some(capital), None) => capital,
        _ => character,
    }
}

fn same_text(one: &str, two: &str) -> bool {
    one.eq_ignore_ascii_case(two) || one.chars().map(fold).eq(two.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, path: &str) -> Option<Vec<(String, Option<String>)>> {
        Template::parse(template).unwrap().matches(path)
    }

    fn values(template: &str, path: &str) -> Option<Vec<Option<String>>> {
        matches(template, path).map(|params| params.into_iter().map(|(_, value)| value).collect())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of a route value")]
    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn literals_match_without_regard_to_case_and_a_trailing_slash_is_ignored() {
        assert_eq!(values("case/{id?}", "/CASE/9"), Some(vec![text("9")]));
        assert_eq!(values("case/{id?}/", "/case/9/"), Some(vec![text("9")]));
        assert_eq!(values("Überblick mit Maß", "/üBERBLICK MIT maß"), Some(vec![]));
        assert_eq!(values("a{{b}}c", "/A{B}C"), Some(vec![]));
        assert_eq!(values("", "/"), Some(vec![]));
    }

    #[test]
    fn a_double_slash_or_an_extra_segment_does_not_match() {
        for path in ["/case//9", "/case/9/8", "/case//", "//case", "/case/9//", "/cas", "/cases", "/", "//"] {
            assert_eq!(values("case/{id?}", path), None, "{path}");
        }
    }

    #[test]
    fn an_absent_optional_parameter_is_present_as_null_and_comes_last() {
        let expected = [("id".to_owned(), text("42")), ("rest".to_owned(), None), ("section".to_owned(), None)];
        assert_eq!(matches("orders/{id}/{section?}/{*rest}", "/orders/42").unwrap(), expected);
        assert_eq!(matches("orders/{id}/{section?}", "/orders"), None);
    }

    #[test]
    fn a_default_takes_the_place_of_an_absent_segment() {
        assert_eq!(values("list/{page:int=1}", "/list"), Some(vec![text("1")]));
        assert_eq!(values("list/{page:int=1}", "/list/7"), Some(vec![text("7")]));
        assert_eq!(values("list/{page:int=1}", "/list/x"), None);
        assert_eq!(values("list/{page:int=x}", "/list"), None);
    }

    #[test]
    fn a_catch_all_takes_the_rest() {
        assert_eq!(values("files/{*rest}", "/files/a/b//c/"), Some(vec![text("a/b//c/")]));
        assert_eq!(values("files/{*rest}", "/files/"), Some(vec![None]));
        assert_eq!(values("files/{*rest}", "/files//a"), None);
        assert_eq!(values("files/{*rest:int}", "/files"), None);
        assert_eq!(values("{**rest}", "/x"), Some(vec![text("x")]));
    }

    #[test]
    fn a_segment_may_have_several_parts() {
        assert_eq!(values("v{version:int}/x", "/V2/x"), Some(vec![text("2")]));
        assert_eq!(values("{name}.json", "/a.b.JSON"), Some(vec![text("a.b")]));
        assert_eq!(values("v{version}", "/v"), None);
        assert_eq!(values("v{version}", "/é"), None);
        assert_eq!(values("{year:int}-{month:int}", "/2026-11"), Some(vec![text("11"), text("2026")]));
        assert_eq!(values("{year:int}-{month:int}", "/1-2-3"), None);
        assert_eq!(values("{a}-{b}-c", "/1-2-3-C"), Some(vec![text("3"), text("1-2")]));
        assert_eq!(values("x{a}é{b}", "/X1É2"), Some(vec![text("2"), text("1")]));
        assert_eq!(values("{a}xx", "/xx"), None);
        assert_eq!(values("{a}longer", "/b"), None);
    }

    #[test]
    fn the_period_before_an_optional_parameter_goes_with_it() {
        for (path, expected) in [
            ("/a.b", Some(vec![text("b"), text("a")])),
            ("/a", Some(vec![text("a"), None])),
            ("/a.", None),
            ("/a.b.c", Some(vec![text("c"), text("a.b")])),
            ("/.a", Some(vec![text(".a"), None])),
        ] {
            assert_eq!(values("{x}.{y?}", path), expected, "{path}");
        }
    }

    #[test]
    fn constraints_are_read_as_the_host_reads_them() {
        assert_eq!(values("{type:regex(^((dists)|(pool)))}/{*file}", "/dists/a/b"), Some(vec![text("dists"), text("a/b")]));
        assert_eq!(values("{x:regex(^\\d{{3}}$)}", "/123"), Some(vec![text("123")]));
        assert_eq!(values("{x:regex(^a:b=c$)=a:b=c}", "/a:b=c"), Some(vec![text("a:b=c")]));
        assert_eq!(values("{x:int:min(3)=5}", "/"), Some(vec![text("5")]));
        assert_eq!(values("{x:int:min(3)=5}", "/2"), None);
        assert_eq!(values("{id:int?}", "/"), Some(vec![None]));
        assert_eq!(Template::parse("{x:regex(^[)}").unwrap().dead_constraint(), Some("regex(^[)"));
    }

    #[test]
    fn a_template_that_the_host_cannot_read_has_a_place_and_a_reason() {
        for (template, at, reason) in [
            ("api/{id:nosuch}", 4, "unknown constraint 'nosuch'"),
            ("api/{id:int(1)}", 4, "wrong arguments"),
            ("api/{id:regex((?=a))}", 4, "a look ahead or behind, which the real host reads"),
            ("api//b", 4, "two slashes in a row"),
            ("/api/{id", 5, "closing brace"),
            ("api/é}x", 5, "other half"),
            ("a{", 1, "other half"),
            ("{id:regex({)}", 10, "must be doubled"),
            ("{}", 0, "not a parameter name"),
            ("{*rest}/x", 8, "must be the last segment"),
            ("x{*rest}", 0, "must fill its segment"),
            ("{id}/{ID}", 5, "appears twice"),
            ("{a}{b}", 0, "without text between"),
            ("v{version?}", 0, "may follow only a period"),
            ("{version?}.x", 0, "must end its segment"),
            ("{id=1?}", 0, "cannot be optional"),
            ("{*id?}", 0, "cannot be optional"),
            ("q?x=1", 1, "question mark"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.reason.contains(reason), "{template}: {error:?}");
            assert_eq!(error.at, at, "{template}: {error:?}");
        }
    }

    fn route(function: &str, template: &str, methods: Option<&[&str]>) -> Route {
        let methods = methods.map(|methods| methods.iter().map(|method| (*method).to_owned()).collect());
        Route { function: function.to_owned(), disabled: false, template: Template::parse(template).unwrap(), methods }
    }

    #[test]
    fn a_route_that_an_earlier_one_covers_is_never_reached() {
        for (first, later, expected) in [
            ("shop/{*rest}", "shop/special", true),
            ("shop/{*rest}", "shop/{id:int}/{page?}", true),
            ("shop/{*rest:int}", "shop/7", false),
            ("shop/{id}", "shop/{id:int}", true),
            ("shop/{id:int}", "shop/{id}", false),
            ("shop/{id:int}", "shop/7", true),
            ("shop/{id:int}", "shop/x", false),
            ("shop/{id}", "shop/{id?}", false),
            ("shop/{id?}", "shop", true),
            ("shop/{id}", "shop/{a}-{b}", true),
            ("shop/{id}", "shop/{*rest}", false),
            ("shop", "shop/{id?}", false),
            ("{a}/{b}", "Shop/x", true),
        ] {
            let [first, later] = [route("A", first, None), route("B", later, Some(&["get"]))];
            let expected = expected.then(|| "B is never reached: A comes first".to_owned());
            assert_eq!(later.never_reached([&first].into_iter()), expected, "{first:?} {later:?}");
        }
    }

    #[test]
    fn methods_decide_in_any_case_and_an_empty_list_matches_none() {
        let get = route("A", "x", Some(&["GET"]));
        assert!(get.matches("/x", "get").is_some() && get.matches("/x", "POST").is_none());
        let none = route("B", "x", Some(&[]));
        assert!(none.matches("/x", "GET").is_none());
        assert!(route("C", "x", None).matches("/x", "FOO").is_some());

        assert_eq!(route("D", "x", Some(&["get", "post"])).never_reached([&get].into_iter()), None);
        assert_eq!(route("D", "x", None).never_reached([&get, &none].into_iter()), None);
        assert!(none.never_reached(std::iter::empty()).unwrap().contains("methods"));
    }
}
