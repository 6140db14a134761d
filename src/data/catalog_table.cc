// Sizes and hashes are those that widely used tools publish for these very files: Hugging Face datasets (enwik8,
// wikitext), TensorFlow Datasets (imdb_reviews, speech_commands, cifar10, scrolls), and for text8 several that agree.
// Nobody seems to publish a hash of the Long Range Arena's archive.
#include "data/catalog_table.h"

namespace megalodon::data {

const char* const kCatalogTable = R"json({
"gcide": {
  "description": "Webster's dictionary (GNU Collaborative International Dictionary of English), 40 MB of text",
  "licence": "GPL-2+",
  "home": "https://gcide.gnu.org.ua/",
  "package": "dict-gcide"
},
"enwik8": {
  "description": "first 100 MB of the English Wikipedia's XML of 3 March 2006; split 90/5/5 MB",
  "licence": "GFDL-1.2",
  "home": "http://mattmahoney.net/dc/textdata.html",
  "mirrors": ["https://mattmahoney.net/dc/", "http://mattmahoney.net/dc/"],
  "files": [
    {"path": "enwik8.zip", "size": 36445475,
     "sha256": "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"}
  ],
  "unpack": true, "unpacked_bytes": 100000000, "unpacked_files": 1,
  "text": {
    "train": {"source": "raw/enwik8/enwik8", "end": 90000000},
    "valid": {"source": "raw/enwik8/enwik8", "begin": 90000000, "end": 95000000},
    "test": {"source": "raw/enwik8/enwik8", "begin": 95000000, "end": 100000000}
  }
},
"text8": {
  "description": "100 MB of Wikipedia cleaned to a-z and spaces; split 90/5/5 MB",
  "licence": "GFDL-1.2",
  "home": "http://mattmahoney.net/dc/textdata.html",
  "mirrors": ["https://mattmahoney.net/dc/", "http://mattmahoney.net/dc/"],
  "files": [
    {"path": "text8.zip", "size": 31344016,
     "sha256": "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"}
  ],
  "unpack": true, "unpacked_bytes": 100000000, "unpacked_files": 1,
  "text": {
    "train": {"source": "raw/text8/text8", "end": 90000000},
    "valid": {"source": "raw/text8/text8", "begin": 90000000, "end": 95000000},
    "test": {"source": "raw/text8/text8", "begin": 95000000, "end": 100000000}
  }
},
"wikitext-103": {
  "description": "28,595 good and featured Wikipedia articles as word tokens, rare words <unk>; a document an article",
  "licence": "CC-BY-SA",
  "home": "https://arxiv.org/abs/1609.07843",
  "mirrors": ["https://wikitext.smerity.com/", "https://s3.amazonaws.com/research.metamind.io/wikitext/"],
  "files": [
    {"path": "wikitext-103-v1.zip", "size": 190229076,
     "sha256": "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"}
  ],
  "unpack": true, "unpacked_bytes": 1000000000, "unpacked_files": 100,
  "text": {
    "train": {"source": "raw/wikitext-103-v1/wikitext-103/wiki.train.tokens", "documents": "wikitext"},
    "valid": {"source": "raw/wikitext-103-v1/wikitext-103/wiki.valid.tokens", "documents": "wikitext"},
    "test": {"source": "raw/wikitext-103-v1/wikitext-103/wiki.test.tokens", "documents": "wikitext"}
  }
},
"wikitext-103-raw": {
  "description": "the same articles with all words kept, for tokenizers of bytes and subwords",
  "licence": "CC-BY-SA",
  "home": "https://arxiv.org/abs/1609.07843",
  "mirrors": ["https://wikitext.smerity.com/", "https://s3.amazonaws.com/research.metamind.io/wikitext/"],
  "files": [
    {"path": "wikitext-103-raw-v1.zip", "size": 191984949,
     "sha256": "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794"}
  ],
  "unpack": true, "unpacked_bytes": 1000000000, "unpacked_files": 100,
  "text": {
    "train": {"source": "raw/wikitext-103-raw-v1/wikitext-103-raw/wiki.train.raw", "documents": "wikitext"},
    "valid": {"source": "raw/wikitext-103-raw-v1/wikitext-103-raw/wiki.valid.raw", "documents": "wikitext"},
    "test": {"source": "raw/wikitext-103-raw-v1/wikitext-103-raw/wiki.test.raw", "documents": "wikitext"}
  }
},
"lra": {
  "description": "Long Range Arena: ListOps, document matching and Pathfinder images",
  "licence": "Apache-2.0 (code); its sources' terms (data)",
  "home": "https://github.com/google-research/long-range-arena",
  "mirrors": ["https://storage.googleapis.com/long-range-arena/"],
  "files": [{"path": "lra_release.gz", "max_bytes": 10000000000}],
  "unpack": true, "unpacked_bytes": 100000000000, "unpacked_files": 10000000,
  "examples": {
    "listops": {"kind": "text", "label": "Target", "text": ["Source"], "drop": "()", "tokenizer": "words",
                "train": "listops-1000/basic_train.tsv", "valid": "listops-1000/basic_val.tsv",
                "test": "listops-1000/basic_test.tsv"},
    "aan": {"kind": "text", "label": "1", "text": ["4", "5"], "train": "tsv_data/new_aan_pairs.train.tsv",
            "valid": "tsv_data/new_aan_pairs.eval.tsv", "test": "tsv_data/new_aan_pairs.test.tsv"},
    "pathfinder32": {"kind": "pathfinder", "train": "pathfinder32/curv_contour_length_14", "valid": 0.1, "test": 0.1},
    "pathfinder128": {"kind": "pathfinder", "train": "pathfinder128/curv_contour_length_14", "valid": 0.1, "test": 0.1}
  }
},
"imdb": {
  "description": "50,000 film reviews, negative or positive, half of them for testing",
  "licence": "none stated; cite Maas et al. (2011)",
  "home": "https://ai.stanford.edu/~amaas/data/sentiment/",
  "mirrors": ["https://ai.stanford.edu/~amaas/data/sentiment/", "http://ai.stanford.edu/~amaas/data/sentiment/"],
  "files": [
    {"path": "aclImdb_v1.tar.gz", "size": 84125825,
     "sha256": "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"}
  ],
  "unpack": true, "unpacked_bytes": 1000000000,
  "examples": {
    "reviews": {"kind": "folders", "train": "aclImdb/train", "valid": 0.1, "test": "aclImdb/test",
                "classes": ["neg", "pos"]}
  }
},
"speech-commands": {
  "description": "Speech Commands v0.02: 105,829 spoken words of one second, 16 kHz WAV",
  "licence": "CC-BY-4.0",
  "home": "https://arxiv.org/abs/1804.03209",
  "mirrors": ["https://storage.googleapis.com/download.tensorflow.org/data/", "http://download.tensorflow.org/data/"],
  "files": [
    {"path": "speech_commands_v0.02.tar.gz", "size": 2428923189,
     "sha256": "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"}
  ],
  "unpack": true, "unpacked_bytes": 10000000000,
  "examples": {
    "speech10": {"kind": "audio", "train": "speech_commands_v0.02", "steps": 16000,
                 "classes": ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]},
    "speech35": {"kind": "audio", "train": "speech_commands_v0.02", "steps": 16000}
  }
},
"cifar-10": {
  "description": "60,000 colour images of 32x32 pixels in 10 classes, binary version",
  "licence": "none stated; cite Krizhevsky (2009)",
  "home": "https://www.cs.toronto.edu/~kriz/cifar.html",
  "mirrors": ["https://www.cs.toronto.edu/~kriz/"],
  "files": [
    {"path": "cifar-10-binary.tar.gz", "size": 170052171,
     "sha256": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}
  ],
  "unpack": true, "unpacked_bytes": 1000000000, "unpacked_files": 100,
  "examples": {
    "gray": {"kind": "records", "rgb": "gray", "valid": 0.1, "test": "cifar-10-batches-bin/test_batch.bin",
             "train": ["cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/data_batch_2.bin",
                       "cifar-10-batches-bin/data_batch_3.bin", "cifar-10-batches-bin/data_batch_4.bin",
                       "cifar-10-batches-bin/data_batch_5.bin"],
             "classes": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]}
  }
},
"scrolls": {
  "description": "SCROLLS: seven tasks over long texts (summaries, questions, inference), JSON lines",
  "licence": "MIT (benchmark); each task's own (data)",
  "home": "https://www.scrolls-benchmark.com/",
  "mirrors": ["https://huggingface.co/datasets/tau/scrolls/resolve/main/",
              "https://scrolls-tau.s3.us-east-2.amazonaws.com/"],
  "files": [
    {"path": "contract_nli.zip", "size": 4862245,
     "sha256": "9e53af34b625c0d4576e718548511212f24edd81e923636c444645ee69762565"},
    {"path": "qasper.zip", "size": 20136770,
     "sha256": "f5b6a3dda9eaeab13d14c3aa6ee8f2c1a87b1db2690a361a729e13ba74809377"},
    {"path": "qmsum.zip", "size": 27288503,
     "sha256": "6dff4c1ffb7d81cdd909872862f65a2fc9409e6e4b9c15665e281338a48bc61b"},
    {"path": "quality.zip", "size": 31252462,
     "sha256": "3bb71203206d60db4da2af517ed29f433798a0fb34dbdeb95088cd61527c2cce"},
    {"path": "summ_screen_fd.zip", "size": 51036297,
     "sha256": "e4ea9e80c3e8315441bcdcac9893602ce3cf1746992747740eb82d0abc11a03c"},
    {"path": "gov_report.zip", "size": 316229863,
     "sha256": "b0adf0d2304fa34f89580a36bb0e7871793aa99613224e5b970f554dfb43b1cc"},
    {"path": "narrative_qa.zip", "size": 8048900135,
     "sha256": "1a91b383704dcd15096f7ef024e7dea3f2fabc0f41db07e9f89a22b01e1688e9"}
  ],
  "unpack": true, "unpacked_bytes": 100000000000, "unpacked_files": 1000
}
})json";

}  // namespace megalodon::data
