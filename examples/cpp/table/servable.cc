// A look-up table, the first servable of every serving system: `table.tsv` in the version directory
// has a key, a tab and a value in each line; keys come in, and values go out.

#include <servable/servable.hpp>

#include <fstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

class Table : public servable::Servable {
   public:
    explicit Table(const servable::Version &version) {
        std::ifstream file(version.file("table.tsv"));
        if (!file) throw servable::Error(SERVABLE_NOT_FOUND, "there is no table.tsv");
        for (std::string line; std::getline(file, line);) {
            const std::size_t tab = line.find('\t');
            if (tab == std::string::npos) {
                throw servable::Error(SERVABLE_INVALID_ARGUMENT, "no tab in '" + line + "'");
            }
            values_.emplace(line.substr(0, tab), line.substr(tab + 1));
        }
    }

    void describe(servable::Description &model) const override {
        model.signature("serving_default")
            .input<std::string_view>("keys", {servable::any})
            .output<std::string_view>("values", {servable::any})
            .output<bool>("found", {servable::any});
        // It is read only and waits for nothing: many runs at once, and short ones where they
        // are.
        model.never_waits();
    }

    void run(servable::Run &run) const override {
        const auto keys = run.input<std::string_view>("keys");
        const auto found = run.output<bool>("found", keys.shape());
        // Views of our own strings: an output may lie in the servable's memory.
        std::vector<std::string_view> values(keys.size());
        for (std::size_t at = 0; at < keys.size(); ++at) {
            const auto entry = values_.find(std::string(keys[at]));
            found[at] = entry != values_.end();
            if (found[at]) values[at] = entry->second;
        }
        run.give("values", keys.shape(), std::move(values));
    }

   private:
    std::unordered_map<std::string, std::string> values_;
};

}  // namespace

SERVABLE_EXPORT(Table);
