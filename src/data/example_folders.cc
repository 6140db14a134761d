#include "data/class_folders.h"
#include "data/example_sources.h"
#include "data/text_set_writer.h"

namespace megalodon::data {

ExampleSetResult make_examples(const ExampleSetOptions& set, const FolderExamples& options,
                               const ExampleProgress& progress) {
  ClassFolders folders(set, ".txt", progress);
  TrainWordCounter counter(set);
  folders.scan([&](const ClassFile& file) {
    const bool counts = options.tokenizer == TextSetWriter::kWords && file.part == 0 && !file.example.empty();
    if (!counts) return;
    const std::string text = file.read();
    counter.add(file.class_name(), {&text, 1});
  });
  TextSetWriter writer(set, options.tokenizer, counter.words());
  folders.for_each([&](const ClassFile& file) {
    const std::string text = file.read();
    writer.add(file.part, file.class_name(), {&text, 1});
  });
  return writer.finish();
}

}  // namespace megalodon::data
