//! Templates as people write them.

use model::Key;
use serde_json::json;

use super::*;
use crate::resource::print::Found;
use model::Kind;

fn run(template: &str) -> Result<String, String> {
    let pool = json!({
        "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}},
        "spec": {"cidr": "10.0.0.0/24", "natOutgoing": true, "allowedUses": ["Workload", "Tunnel"]},
    });
    let other = json!({"metadata": {"name": "b"}, "spec": {"cidr": "10.1.0.0/24"}});
    let pools = vec![
        (Key::global(Kind::IPPool, "a"), pool.clone()),
        (Key::global(Kind::IPPool, "b"), other),
    ];
    let found = [
        Found::One(Key::global(Kind::IPPool, "a"), pool),
        Found::List { kind: Kind::IPPool, version: 7, objects: pools },
    ];
    let template = Template::parse(template).map_err(|fault| fault.to_string())?;
    let one = &found[..1];
    let list = &found[1..];
    let is_of_list = template.0.iter().any(|node| format!("{node:?}").contains("Items"));
    let results = Results { found: if is_of_list { list } else { one }, as_number: "64512" };
    let mut out = String::new();
    template.run(&results, &mut out).map_err(|failure| failure.to_string())?;
    Ok(out)
}

#[test]
fn fields_ranges_conditions_and_functions_do_what_go_does() {
    for (template, output) in [
        ("", ""),
        ("plain } text { {", "plain } text { {"),
        ("{{range .}}{{.Name}} {{.Spec.CIDR}} {{.Spec.NATOutgoing}}{{end}}", "a 10.0.0.0/24 true"),
        ("{{range .}}{{range .Items}}{{.ObjectMeta.Name}}\n{{end}}{{end}}", "a\nb\n"),
        ("{{range .}}{{len .Items}} of {{.Kind}}{{end}}", "2 of IPPoolList"),
        (
            "{{range .}}{{range .Items}}{{if .Spec.NATOutgoing}}nat{{else}}no{{end}} {{end}}{{end}}",
            "nat no ",
        ),
        (
            "{{range .}}{{range .Items}}{{if .Labels}}{{join .Labels \",\"}}{{else if .Spec.Disabled}}off{{else}}none{{end}};{{end}}{{end}}",
            "x=1,y=2;none;",
        ),
        (
            "{{range .}}{{join .Spec.AllowedUses \"+\"}} {{joinAndTruncate .Spec.AllowedUses \",\" 10}}{{end}}",
            "Workload+Tunnel Workloa...",
        ),
        ("{{range .}}{{.Spec.AllowedUses}} {{.Labels}}{{end}}", "[Workload Tunnel] map[x:1 y:2]"),
        (
            "{{range .}}{{.Spec.AllowedUses | len}} {{len (join .Spec.AllowedUses `/`)}}{{end}}",
            "2 15",
        ),
        (
            "{{range .}}[{{.Spec.IPIPMode}}] {{.Spec.BlockSize}} {{.Spec.Disabled}} {{.Spec.AssignmentMode}}{{end}}",
            "[] 0 false <nil>",
        ),
        ("a {{- range . -}} \n {{.Name}} {{- end}} z", "aa z"),
        ("{{/* nothing */}}{{config \"ASNumber\"}}", "64512"),
        ("{{range .}}{{range .Spec.AllowedUses}}<{{.}}>{{end}}{{end}}", "<Workload><Tunnel>"),
        ("{{range .}}{{range .Namespace}}{{end}}{{end}}", ""),
        ("{{\"}}\\n\"}}{{`{{`}}", "}}\n{{"),
        ("{{range .}}{{.APIVersion}}{{end}}", "projectcalico.org/v3"),
    ] {
        assert_eq!(run(template), Ok(output.to_owned()), "{template}");
    }
}

#[test]
fn an_order_is_written_as_by_go() {
    let tier = json!({"metadata": {"name": "t"}, "spec": {"order": 1_000_000}});
    let found = [Found::One(Key::global(Kind::Tier, "t"), tier)];
    let template = Template::parse("{{range .}}{{.Spec.Order}}{{end}}").unwrap();
    let mut out = String::new();
    template.run(&Results { found: &found, as_number: "64512" }, &mut out).unwrap();
    assert_eq!(out, "1e+06");
}

#[test]
fn what_is_not_taken_or_not_there_is_named_with_the_way_out() {
    for (template, message) in [
        ("{{.Foo", "line 1 of the template: an action that is not closed; }} is missing"),
        ("x\n{{range .}}", "line 2 of the template: a block without {{end}}"),
        ("{{end}}", "{{end}} without a block before it"),
        ("{{range .}}{{else}}{{else}}{{end}}", "where {{end}} is expected"),
        ("{{}}", "an empty action; write for example {{.Name}}"),
        ("{{with .}}{{end}}", "with isn't taken here"),
        ("{{printf \"%s\" .}}", "\"printf\" isn't taken here; the functions are config, join"),
        ("{{$x := 1}}", "variables ($) aren't taken here"),
        ("{{join .}}", "join takes 2 arguments, not 1"),
        ("{{. .}}", "an argument to something that is no function"),
        ("{{.Name}}", "a list has no field Name; write {{range .}}{{.Name}}{{end}}"),
        ("{{.}}", "a list of resources isn't printed whole"),
        ("{{range .}}{{.}}{{end}}", "a resource isn't printed whole; name a field"),
        (
            "{{range .}}{{.Spec}}{{end}}",
            "a structure isn't printed whole; name one of its fields: cidr",
        ),
        ("{{range .}}{{.Spec.CIRD}}{{end}}", "there is no field CIRD here; did you mean cidr?"),
        ("{{range .}}{{.Frob}}{{end}}", "a IPPool has no field Frob"),
        ("{{range .}}{{.Name.First}}{{end}}", "what has no fields has no First"),
        ("{{config \"x\"}}", "config \"x\" isn't known; there is \"asnumber\""),
        ("{{range .}}{{len .Spec.BlockSize}}{{end}}", "len is of a list, a map or a text"),
        ("{{range .}}{{range .Name}}{{end}}{{end}}", "range needs a list"),
    ] {
        let error = run(template).expect_err(template);
        assert!(error.contains(message), "{template}: {error}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn no_template_makes_it_panic(
        template in "(\\{\\{-? ?(range|if|else|end|join|len|\\.Items|\\.Spec|\\.|\\(|\\)|\\|| |\"|`|1|-)* ?-?\\}\\}|[a-z{} ]|\n|é){0,12}"
    ) {
        let _ = run(&template);
    }
}
