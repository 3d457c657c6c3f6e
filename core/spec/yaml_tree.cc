#include "core/spec/yaml_tree.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "yaml-cpp/depthguard.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace diffmoe {
namespace {

// A block level needs at least one more column of indentation or of "- " and "? " signs.
constexpr size_t kMaxIndent = 256;

int LineOf(const YAML::Mark& mark) { return mark.is_null() ? 1 : mark.line + 1; }

std::string TooDeep() {
  return absl::StrCat("too deep: expected at most ", kMaxYamlDepth, " levels of nesting");
}

// The part of a line before a comment.
absl::string_view WithoutComment(absl::string_view line) {
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '#' && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t')) {
      return line.substr(0, i);
    }
  }
  return line;
}

// Nesting and bytes, judged line by line before the parser sees the text.
std::optional<YamlFault> FindFaultBeforeParsing(absl::string_view text) {
  int line_number = 0;
  int depth = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    for (unsigned char c : line) {
      if ((c < 0x20 && c != '\t' && c != '\r') || c == 0x7f) {
        return YamlFault{
            line_number,
            absl::StrFormat("expected text without control characters, got \\x%02x", c)};
      }
    }
    const absl::string_view content = WithoutComment(line);
    if (std::min(content.find_first_not_of(" \t-?:"), content.size()) > kMaxIndent) {
      return YamlFault{line_number, TooDeep()};
    }
    for (char c : content) {
      if (c == '[' || c == '{') ++depth;
      if ((c == ']' || c == '}') && depth > 0) --depth;
      if (depth > kMaxYamlDepth) return YamlFault{line_number, TooDeep()};
    }
  }
  return std::nullopt;
}

class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(YamlTree* tree) : tree_(*tree) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    RefuseAnchor(mark, anchor);
    Add({YamlNode::Kind::kNull, LineOf(mark), "", {}});
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    RefuseAnchor(mark, 1);
    Add({YamlNode::Kind::kNull, LineOf(mark), "", {}});
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    const auto kind = tag == "!" ? YamlNode::Kind::kQuoted : YamlNode::Kind::kPlain;
    Add({kind, LineOf(mark), value, {}});
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    Open(YamlNode::Kind::kSequence, mark);
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    RefuseAnchor(mark, anchor);
    RefuseTag(mark, tag);
    Open(YamlNode::Kind::kMapping, mark);
  }
  void OnMapEnd() override { Close(); }

  // Closes the mappings that a syntax error left open; an unfinished list is dropped.
  void CloseAll() {
    while (!open_.empty()) {
      if (open_.back().node.kind == YamlNode::Kind::kMapping) {
        Close();
      } else {
        open_.pop_back();
      }
    }
  }

 private:
  struct OpenNode {
    YamlNode node;
    std::optional<YamlNode> key;  // a mapping's key that waits for its value
  };

  void Open(YamlNode::Kind kind, const YAML::Mark& mark) {
    open_.push_back({{kind, LineOf(mark), "", {}}, std::nullopt});
  }

  void Close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    Add(std::move(node));
  }

  void Add(YamlNode node) {
    if (open_.empty()) {
      tree_.root = std::move(node);
      return;
    }
    OpenNode& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kSequence) return;
    if (!parent.key.has_value()) {
      parent.key = std::move(node);
      return;
    }
    parent.node.members.emplace_back(std::move(*parent.key), std::move(node));
    parent.key.reset();
  }

  void RefuseAnchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) {
      tree_.faults.push_back(
          {LineOf(mark), "anchors (&) and aliases (*) are refused: write the value out"});
    }
  }

  void RefuseTag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!") {
      tree_.faults.push_back({LineOf(mark), "tags (!) are refused: write the plain value"});
    }
  }

  YamlTree& tree_;
  std::vector<OpenNode> open_;
};

}  // namespace

YamlTree ReadYamlTree(absl::string_view text) {
  YamlTree tree;
  if (std::optional<YamlFault> fault = FindFaultBeforeParsing(text)) {
    tree.faults.push_back(*std::move(fault));
    tree.complete = false;
    return tree;
  }
  TreeBuilder builder(&tree);
  // yaml-cpp reports errors by exceptions only; they end here.
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    YamlTree second;
    TreeBuilder ignored(&second);
    if (parser.HandleNextDocument(ignored)) {
      tree.faults.push_back({second.root.line, "expected one YAML document, got a second one"});
    }
  } catch (const YAML::DeepRecursion& error) {
    tree.faults.push_back({LineOf(error.mark), TooDeep()});
    tree.complete = false;
  } catch (const YAML::Exception& error) {
    tree.faults.push_back({LineOf(error.mark), absl::StrCat("not valid YAML: ", error.msg)});
    tree.complete = false;
  }
  builder.CloseAll();
  return tree;
}

}  // namespace diffmoe
