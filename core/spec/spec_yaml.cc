#include "core/spec/spec_yaml.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/spec/spec_fields.h"
#include "core/spec/validate.h"
#include "core/spec/yaml_tree.h"

namespace diffmoe {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

v1::FieldViolation MakeViolation(absl::string_view field, absl::string_view description, int line) {
  v1::FieldViolation violation;
  violation.set_field(std::string(field));
  violation.set_description(std::string(description));
  violation.set_line(line);
  return violation;
}

std::vector<std::string> FieldNames(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return names;
}

std::string KindText(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kPlain:
      return QuoteForMessage(node.text);
    case YamlNode::Kind::kQuoted:
      return absl::StrCat("text ", QuoteForMessage(node.text));
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMapping:
      return "a mapping";
  }
  return "something else";
}

bool HoldsText(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ||
         field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM;
}

class Reader {
 public:
  explicit Reader(SpecDocument* document) : document_(*document) {}

  void ReadMapping(const YamlNode& node, const std::string& prefix, Message* message) {
    std::map<std::string, int> first_lines;
    for (const auto& [key, value] : node.members) {
      if (Full()) return;
      if (key.kind != YamlNode::Kind::kPlain && key.kind != YamlNode::Kind::kQuoted) {
        Add(prefix.substr(0, prefix.find('.')),
            absl::StrCat("expected the name of a field as key, got ", KindText(key)), key.line);
        continue;
      }
      const auto [first, fresh] = first_lines.emplace(key.text, key.line);
      if (!fresh) {
        Add(prefix + SafeKey(key.text),
            absl::StrCat("duplicate key: line ", first->second, " has it already"), key.line);
        continue;
      }
      const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(key.text);
      if (field == nullptr) {
        AddUnknownKey(key, prefix, *message->GetDescriptor());
      } else {
        ReadField(value, key.line, prefix + key.text, *field, message);
      }
    }
  }

  void Add(absl::string_view field, absl::string_view description, int line) {
    document_.violations.push_back(MakeViolation(field, description, line));
  }

  bool Full() const { return document_.violations.size() >= kMaxSpecViolations; }

 private:
  // A key from outside as part of a field path: as it is when it looks like a name, quoted
  // otherwise.
  static std::string SafeKey(const std::string& key) {
    for (unsigned char c : key) {
      if (c <= 0x20 || c >= 0x7f) return QuoteForMessage(key);
    }
    return key.size() > 60 ? QuoteForMessage(key) : key;
  }

  void AddUnknownKey(const YamlNode& key, const std::string& prefix, const Descriptor& type) {
    const std::vector<std::string> names = FieldNames(type);
    const std::string nearest = NearestName(key.text, names);
    std::string hint;
    if (!nearest.empty()) {
      hint = absl::StrCat("; did you mean \"", nearest, "\"?");
      // The misspelt field is not reported as missing too.
      document_.unreadable.insert(prefix + nearest);
    } else if (std::string elsewhere = SectionOf(key.text); !elsewhere.empty()) {
      hint = absl::StrCat("; did you mean \"", elsewhere, "\"?");
      document_.unreadable.insert(elsewhere);
    } else {
      hint = "; known here: ";
      for (const std::string& name : names) {
        absl::StrAppend(&hint, name == names.front() ? "" : ", ", name);
      }
    }
    Add(prefix + SafeKey(key.text), absl::StrCat("unknown key", hint), key.line);
  }

  // The full path of the field with this name in whichever section has it; empty when none or
  // several do.
  static std::string SectionOf(const std::string& name) {
    std::string found;
    for (const std::string& path : AllSpecFieldPaths()) {
      if (path.size() > name.size() && path[path.size() - name.size() - 1] == '.' &&
          path.compare(path.size() - name.size(), name.size(), name) == 0) {
        if (!found.empty()) return "";
        found = path;
      }
    }
    return found;
  }

  void ReadField(const YamlNode& value, int key_line, const std::string& path,
                 const FieldDescriptor& field, Message* message) {
    if (path == "parallel.ranks" && value.kind == YamlNode::Kind::kMapping) {
      ReadRankRange(value, message);
      return;
    }
    document_.lines[path] = key_line;
    const bool wants_mapping = field.message_type() != nullptr;
    if (value.kind == YamlNode::Kind::kNull) {
      Reject(path,
             absl::StrCat("expected ", ExpectedTextOf(field),
                          ", got nothing: give a value or remove the line"),
             key_line);
    } else if (wants_mapping != (value.kind == YamlNode::Kind::kMapping) ||
               value.kind == YamlNode::Kind::kSequence) {
      Reject(path, absl::StrCat("expected ", ExpectedTextOf(field), ", got ", KindText(value)),
             key_line);
    } else if (wants_mapping) {
      ReadMapping(value, path + ".", message->GetReflection()->MutableMessage(message, &field));
    } else if (value.kind == YamlNode::Kind::kQuoted && !HoldsText(field)) {
      Reject(path, absl::StrCat("expected ", ExpectedTextOf(field), ", got ", KindText(value)),
             value.line);
    } else if (absl::Status status = SetFieldFromText(message, field, value.text); !status.ok()) {
      Reject(path, status.message(), value.line);
    }
  }

  // `ranks: {min: 1, max: 4}` says the same as `ranks: 4` with `min_ranks: 1`.
  void ReadRankRange(const YamlNode& range, Message* message) {
    for (const auto& [key, value] : range.members) {
      const std::string name = key.text == "min" ? "min_ranks" : key.text == "max" ? "ranks" : "";
      const std::string path = "parallel." + name;
      if (name.empty()) {
        Add("parallel.ranks", absl::StrCat("expected min and max, got ", SafeKey(key.text)),
            key.line);
      } else if (document_.lines.contains(path)) {
        Add(path, absl::StrCat("duplicate: line ", document_.lines[path], " has it already"),
            key.line);
      } else if (value.kind == YamlNode::Kind::kMapping) {
        Reject(path, absl::StrCat("expected a whole number, got ", KindText(value)), value.line);
      } else {
        ReadField(value, key.line, path, *message->GetDescriptor()->FindFieldByName(name), message);
      }
    }
    if (!document_.lines.contains("parallel.ranks")) {
      Reject("parallel.ranks", "expected max beside min", range.line);
    }
  }

  void Reject(const std::string& path, absl::string_view description, int line) {
    document_.unreadable.insert(path);
    Add(path, description, line);
  }

  SpecDocument& document_;
};

int FindLine(const SpecDocument& document, absl::string_view field) {
  while (true) {
    const auto it = document.lines.find(std::string(field));
    if (it != document.lines.end()) return it->second;
    if (field.empty()) return 0;
    const size_t dot = field.rfind('.');
    field = dot == absl::string_view::npos ? absl::string_view() : field.substr(0, dot);
  }
}

}  // namespace

SpecDocument ParseSpecYaml(absl::string_view text) {
  SpecDocument document;
  Reader reader(&document);
  const YamlTree tree = ReadYamlTree(text);
  for (const YamlFault& fault : tree.faults) {
    if (reader.Full()) break;
    reader.Add("", fault.description, fault.line);
  }
  document.lines[""] = tree.root.line;
  if (tree.root.kind == YamlNode::Kind::kMapping) {
    reader.ReadMapping(tree.root, "", &document.spec);
  } else if (tree.complete && tree.faults.empty()) {
    reader.Add("",
               absl::StrCat("expected a mapping with name, model, data and train, got ",
                            KindText(tree.root)),
               tree.root.line);
  }
  if (!tree.complete || tree.root.kind != YamlNode::Kind::kMapping) {
    // Nothing is said about fields that were never seen.
    for (const std::string& path : AllSpecFieldPaths()) {
      if (!document.lines.contains(path)) document.unreadable.insert(path);
    }
  }
  return document;
}

void OverrideField(absl::string_view assignment, SpecDocument* document) {
  const size_t equals = assignment.find('=');
  const std::string path(assignment.substr(0, equals));
  const FieldDescriptor* field = FindSpecField(path);
  if (equals == absl::string_view::npos || field == nullptr || field->message_type() != nullptr) {
    const std::string nearest = NearestName(path, AllSpecFieldPaths());
    document->violations.push_back(
        MakeViolation("",
                      absl::StrCat("--set ", QuoteForMessage(assignment), ": expected FIELD=VALUE",
                                   nearest.empty() || nearest == path
                                       ? ", for example train.steps=50"
                                       : absl::StrCat("; did you mean \"", nearest, "\"?")),
                      0));
    return;
  }
  Message* message = &document->spec;
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    const FieldDescriptor* section = message->GetDescriptor()->FindFieldByName(parts[i]);
    message = message->GetReflection()->MutableMessage(message, section);
  }
  document->lines[path] = 0;
  const absl::Status status = SetFieldFromText(message, *field, assignment.substr(equals + 1));
  if (!status.ok()) {
    document->unreadable.insert(path);
    document->violations.push_back(
        MakeViolation(path, absl::StrCat("--set: ", status.message()), 0));
  }
}

std::vector<v1::FieldViolation> CheckSpecDocument(const SpecDocument& document) {
  std::vector<v1::FieldViolation> rules = ValidateSpec(document.spec, document.unreadable);
  AddLines(document, &rules);
  std::vector<v1::FieldViolation> all = document.violations;
  all.insert(all.end(), rules.begin(), rules.end());
  std::stable_sort(
      all.begin(), all.end(),
      [](const v1::FieldViolation& a, const v1::FieldViolation& b) { return a.line() < b.line(); });
  if (all.size() > kMaxSpecViolations) {
    const size_t more = all.size() - kMaxSpecViolations;
    all.resize(kMaxSpecViolations);
    all.push_back(MakeViolation("", absl::StrCat(more, " or more other faults"), 0));
  }
  return all;
}

void AddLines(const SpecDocument& document, std::vector<v1::FieldViolation>* violations) {
  for (v1::FieldViolation& violation : *violations) {
    violation.set_line(FindLine(document, violation.field()));
  }
}

}  // namespace diffmoe
