"""Rules for docstrings and names, checked on the project and, so that the checks are known to bite, on small examples.

The violations of some files or folders (of everything without an argument), one per line:

    python tests/test_docstrings.py [PATH...]

Files that do not obey yet stand in docstrings_not_yet.txt, which only shrinks; after mending some, this takes them out
(and is the way to resolve a merge conflict in that list):

    python tests/test_docstrings.py --prune
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('benchmarks', 'compression', 'configs', 'generators', 'launch', 'tokenizers', 'vistok')
LINKED = ('compression', 'configs', 'generators', 'launch', 'tokenizers')  # top-level folders, linked into vistok/
MAY_BE_SILENT = ('benchmarks', 'configs')  # a docstring may be missing here; one that exists obeys the rules
FEWEST_WORDS = 4
LIST = Path(__file__).with_name('docstrings_not_yet.txt')
NOT_YET = set(LIST.read_text('utf-8').split()) if LIST.exists() else set()


def words(text: str) -> set[str]:
    return set(text.split())


# Verbs that begin the docstring of a function, without the -s of the third person. Add a verb where one is missing.
VERBS = words("""
abort accept accumulate activate adapt add adjust advance aggregate align allocate allow alternate
amplify analyse anneal annotate append apply approximate arrange ask assemble assert assign attach
attend augment average balance begin bin bind bisect blend blur bound bring broadcast build cache
calculate calibrate call cancel capture cast centre check choose clamp classify clean clear clip
clone close cluster code collapse collect color colour combine compare compile complete compose
compress compute concatenate condition configure connect consume contain continue contract convert
convolve copy correct count cover crash create crop cut deal deblock decide decode decompress
decorate dedent deduce deepen define delete denoise dequantize describe deserialize detect determine
differentiate diffuse digest dilate disable discard discover display distil distribute divide double
download downsample draw drop dump edit embed emit empty enable encode end enforce enlarge enqueue
ensure enter enumerate erase estimate evaluate evict exchange exclude execute expand explain export
expose express extend extract fail fake feed fetch fill filter finalize find finish fit fix flatten
flip flush fold follow forbid force forget fork format forward free freeze fuse gather generate get
give group grow guard guess guide halve handle hash hide highlight hold identify ignore implement
import include increase increment index infer inform initialize inject inpaint insert inspect
install instantiate interleave interpolate interpret introduce inverse invert invoke issue iterate
join judge jump keep label launch lay learn leave lift limit list load locate lock log look lookup
loop lower make map mark mask match materialize maximize measure merge minimize mirror mix modify
modulate monitor move multiply name nest normalize notify number obtain occupy offer omit open
optimize order override pack pad paint pair parse partition pass paste patch perform permute perturb
pick place plan play plot point pool pop populate predict prefill prepare prepend prescribe present
preserve prevent print process produce project propagate propose protect prove provide prune publish
pull push put quantize query queue raise randomize rank read rearrange rebuild receive recognize
recompute reconstruct record recover recurse redraw reduce refer refill refine refit refresh refuse
register reject relabel release reload remap remember remove rename render reorder repair repeat
replace replay replicate report represent request require resample rescale reset reshape resize
resolve respond restart restore restrict resume retrieve retry return reveal reverse rewrite rotate
round route run sample save say scale scan scatter schedule score search seed select send separate
serialize serve set shard share sharpen shift show shrink shuffle sign simulate skip slice smooth
solve sort spawn speak specify speed split spread square stack standardize start state stop store
stratify stream stretch strip subdivide submit subsample subtract suggest sum summarize supply
suppress swap switch synchronize take tell test threshold throw tie tile time tokenize touch track
train transcode transfer transform translate transmit transpose traverse treat trim truncate try
tune turn unfold unite unmask unpack unroll unstack unwrap update upload upsample use validate
verify visit wait walk warm warn warp weight widen wrap write yield zero zip zoom
""")
# Their third person is also the plural of a noun, so a class or a property may begin with it.
ALSO_NOUNS = words("""
averages balances bins blends bounds casts centres checks classes clips clones codes colours
conditions copies counts covers crops cuts deals decays digests displays drops ends estimates
exports filters fits flips folds forks formats forwards groups guards guesses guides handles hashes
highlights indexes issues jumps labels lists loads locks logs loops maps marks masks matches means
measures mixes names nests numbers offers orders pads pairs passes patches picks places plans plays
plots points pools presents prints processes projects prunes queries queues ranks records releases
repeats reports requests resumes reverses rounds routes samples scales scans schedules scores
searches seeds shares shifts signs slices splits spreads squares stacks starts states stops stores
streams sums supplies switches tests ties tiles times tracks transfers transforms turns updates
visits walks weights wraps zeros zooms
""")
RIDDLES = words("""
anything are as both everything from how if in instead is likewise not nothing of see so some
something such that this those to what when where whether which while who whoever why with
""")
ENDS_LIKE_A_PARTICIPLE = {
    'bed',
    'embed',
    'exceed',
    'feed',
    'hundred',
    'need',
    'proceed',
    'red',
    'seed',
    'shed',
    'speed',
}
PARTICIPLES = words("""
begun bought bound broken brought built caught chosen dealt done drawn felt forgotten found frozen
given gone grown heard held hidden kept known laid left lent lost made met overlaid rebuilt said
seen sent shown sold spent spoken stood stuck sunk taken taught thrown told torn understood unknown
unseen unwritten won worn wound written
""")
DOCUMENTED_ELSEWHERE = {'setup'}  # of Flax modules
PLAIN_BASES = {'ABC', 'Exception', 'Generic', 'Module', 'NamedTuple', 'Protocol', 'ValueError', 'object'}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def third_person(verb: str) -> str:
    if re.search(r'(s|x|z|ch|sh|o)$', verb):
        return verb + 'es'
    return verb[:-1] + 'ies' if re.search(r'[^aeiou]y$', verb) else verb + 's'


THIRD_PERSON = {third_person(verb) for verb in VERBS} | {'quizzes', 'inverts'}


class Project:
    """Syntax trees of all files, with the classes in them."""

    def __init__(self, root: Path):
        paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob('*.py'))
        paths = [path for path in paths if not any(part.is_symlink() for part in path.parents)]
        self.trees = {path.relative_to(root).as_posix(): ast.parse(path.read_text('utf-8')) for path in paths}
        self.classes = {}
        for path, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes[module_name(path), node.name] = (path, node)
        self.imports = {path: dict(imported_names(tree)) for path, tree in self.trees.items()}

    def base(self, path: str, expression: ast.expr) -> tuple[str, ast.ClassDef] | None:
        """Where a base class is defined, if in the project."""
        if isinstance(expression, ast.Subscript):
            expression = expression.value
        head, _, rest = ast.unparse(expression).partition('.')
        full = '.'.join(filter(None, [self.imports[path].get(head, f'{module_name(path)}.{head}'), rest]))
        module, _, name = full.rpartition('.')
        return self.classes.get((module, name))

    def overrides(self, path: str, owner: ast.ClassDef, name: str) -> bool:
        """Whether a class above `owner` documents the method."""
        for expression in owner.bases:
            found = self.base(path, expression)
            if found is None:
                plain = ast.unparse(expression).split('[')[0].split('.')[-1]
                if plain not in PLAIN_BASES or (plain == 'Module' and name in DOCUMENTED_ELSEWHERE):
                    return True
                continue
            above, node = found
            defined = next((x for x in node.body if isinstance(x, Function) and x.name == name), None)
            if (defined is not None and ast.get_docstring(defined)) or self.overrides(above, node, name):
                return True
        return False


def module_name(path: str) -> str:
    dotted = path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
    return f'vistok.{dotted}' if path.split('/')[0] in LINKED else dotted


def imported_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.split('.')[0], alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f'{node.module}.{alias.name}') for alias in node.names)


def is_property(node: Function) -> bool:
    return any(re.search(r'property$|\.setter$', ast.unparse(x).split('(')[0]) for x in node.decorator_list)


def is_participle(name: str) -> bool:
    word = name.strip('_').lower()
    return word in PARTICIPLES or (word.endswith('ed') and word not in ENDS_LIKE_A_PARTICIPLE and '_' not in word)


def in_class_docstring(owner: ast.ClassDef | None, name: str) -> bool:
    docstring = ast.get_docstring(owner) if owner else None
    return bool(re.search(rf'^\s*{name}: ', docstring or '', re.MULTILINE))


def first_words(docstring: str) -> list[str]:
    return docstring.strip().splitlines()[0].split() if docstring.strip() else []


def wrong_summary(docstring: str, *, function: bool, short: bool) -> Iterator[str]:
    """Reasons against the first line of a docstring; `short`: fewer than four words are enough."""
    words = first_words(docstring) or ['']
    first = re.sub(r'[^\w-]+$', '', words[0])
    if first.lower() in RIDDLES:
        yield f'begins with {first!r}'
    elif function and first.lower() not in THIRD_PERSON:
        yield f'begins with {first!r}, not with a verb such as "Returns" or "Encodes"'
    elif function and words[1:2] == ['of']:
        yield f'begins with a noun, {first!r}, not with a verb'
    elif not function and first.lower() in THIRD_PERSON - ALSO_NOUNS and words[1:2] != ['of']:
        yield f'begins with a verb, {first!r}, not with a noun'
    if not short and len(words) < FEWEST_WORDS:
        yield f'has fewer than {FEWEST_WORDS} words in its first line'
    if re.search(r"(?<!')\bpictures?\b(?!')", docstring, re.IGNORECASE):
        yield 'says "picture": the term is "image"'


def violations_of(project: Project, path: str) -> Iterator[str]:
    """Everything in a file that breaks a rule, as `path:line name: reason`."""

    def inspect(node: ast.AST, owner: ast.ClassDef | None, *, public: bool) -> Iterator[str]:
        inner_owner, inner_public = owner, public
        if isinstance(node, Function | ast.ClassDef | ast.Module):
            name = getattr(node, 'name', 'module')
            docstring = ast.get_docstring(node)
            method = owner is not None and isinstance(node, Function)
            as_property = isinstance(node, Function) and is_property(node)
            override = method and project.overrides(path, owner, name)
            reasons = []
            if docstring is not None:
                function = isinstance(node, Function) and not as_property
                reasons += wrong_summary(docstring, function=function, short=as_property or bool(override))
            elif public and not (
                path.startswith(MAY_BE_SILENT) or name.startswith('_') or override or in_class_docstring(owner, name)
            ):
                reasons.append('has no docstring')
            if not as_property and not isinstance(node, ast.Module) and is_participle(name):
                reasons.append('is a participle: functions are verbs, classes are nouns')
            line = getattr(node, 'lineno', 1)
            yield from (f'{path}:{line} {name}: {reason}' for reason in reasons)
            inner_owner = node if isinstance(node, ast.ClassDef) else None
            inner_public = public and not name.startswith('_') and not isinstance(node, Function)
        for child in ast.iter_child_nodes(node):
            yield from inspect(child, inner_owner, public=inner_public)

    yield from inspect(project.trees[path], None, public=True)


PROJECT = Project(ROOT)


@pytest.mark.parametrize('path', sorted(set(PROJECT.trees) - NOT_YET))
def test_docstrings_and_names_keep_the_rules(path):
    assert list(violations_of(PROJECT, path)) == []


GOOD = '''"""Residual vector quantization (several codewords per position)."""
from vistok.losses.base import Base
class Sampler(Base):
    """Samples of a categorical distribution."""
    def __init__(self, seed):
        self.seed = seed
    def encode(self, x):
        return _clip(x)
    def embed(self, x):
        """Embeds ids."""
    def decode(self, z):
        """Decodes latents into images in [-1, 1]."""
    @property
    def side(self):
        """Side of a cell."""
def _clip(x):
    return x
'''
BASE = '''"""Base classes of losses, for tests."""
class Base:
    """Base class of all the others."""
    def encode(self, x):
        """Encodes images as token ids."""
    def embed(self, x):
        """Returns codewords of the ids."""
    def undocumented(self):
        return 1
'''


def violations_in(root, text):
    for name, content in {'losses/base.py': BASE, 'losses/a.py': text}.items():
        (root / 'vistok' / name).parent.mkdir(parents=True, exist_ok=True)
        (root / 'vistok' / name).write_text(content)
    return list(violations_of(Project(root), 'vistok/losses/a.py'))


def test_good_docstrings_pass(tmp_path):
    assert violations_in(tmp_path, GOOD) == []


BROKEN = [
    (
        'Residual vector quantization (several codewords per position).',
        'What a quantizer returns to its caller.',
        'What',
    ),
    ('Residual vector quantization (several codewords per position).', 'Two words.', 'fewer than 4'),
    ('Residual vector quantization (several codewords per position).', 'Quantizes latents, depth by depth.', 'verb'),
    ('Samples of a categorical distribution.', 'Encodes images as token ids.', 'begins with a verb'),
    ('Samples of a categorical distribution.', 'Samples of a picture, drawn twice.', 'the term is "image"'),
    ('Decodes latents into images in [-1, 1].', 'How latents are decoded into images.', "begins with 'How'"),
    ('Decodes latents into images in [-1, 1].', 'Images in [-1, 1] of some latents.', 'not with a verb'),
    ('Decodes latents into images in [-1, 1].', 'Decoded images, in [-1, 1].', "begins with 'Decoded'"),
    ('Decodes latents into images in [-1, 1].', 'Samples of a latent distribution.', 'begins with a noun'),
    ('Decodes latents into images in [-1, 1].', 'Decodes latents.', 'fewer than 4'),
    ('"""Embeds ids."""', '"""Ids, embedded."""', 'not with a verb'),
    ('Side of a cell.', 'Returns the side of a cell.', 'begins with a verb'),
    ('Side of a cell.', 'Whether it is a cell.', "begins with 'Whether'"),
    ('def encode', 'def undocumented', 'has no docstring'),
    ('(Base)', '', 'encode: has no docstring'),
    ('def _clip', 'def _clipped', 'is a participle'),
    ('def _clip', 'def chosen', 'is a participle'),
    ('class Sampler', 'class Drawn', 'is a participle'),
    (
        '"""Embeds ids."""',
        '"""Embeds ids."""\n        def halved(x):\n            return x / 2',
        'halved: is a participle',
    ),
]


@pytest.mark.parametrize(('old', 'new', 'complaint'), BROKEN)
def test_a_broken_docstring_or_name_is_caught(tmp_path, old, new, complaint):
    assert GOOD.count(old) == 1
    found = violations_in(tmp_path, GOOD.replace(old, new))
    assert any(complaint in line for line in found)


def prune() -> None:
    """Takes files that obey, or are gone, out of the list, and marks of merge conflicts with them."""
    wrong = [path for path in sorted(NOT_YET & PROJECT.trees.keys()) if list(violations_of(PROJECT, path))]
    LIST.write_text(''.join(f'{path}\n' for path in wrong), 'utf-8')


if __name__ == '__main__':
    if sys.argv[1:] == ['--prune']:
        prune()
    else:
        chosen = [Path(name).resolve().relative_to(ROOT).as_posix() for name in sys.argv[1:]] or ['']
        for file in PROJECT.trees:
            if any(file == name or file.startswith(f'{name}/' if name else '') for name in chosen):
                print(*violations_of(PROJECT, file), sep='\n', end='\n' if list(violations_of(PROJECT, file)) else '')
