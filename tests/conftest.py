"""What all tests share."""

import hypothesis

# few examples: the suite is run often and on small machines; a nightly run may ask for more (--hypothesis-profile)
hypothesis.settings.register_profile("kdpipe", deadline=None, max_examples=25)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("kdpipe")
